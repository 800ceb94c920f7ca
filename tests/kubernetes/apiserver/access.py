"""Who asks, and whether the roles let him."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from tests.kubernetes.apiserver.faults import Fault
from tests.kubernetes.apiserver.kinds import ROLE_BINDINGS, ROLES, Kind, Object
from tests.kubernetes.apiserver.store import Store

ADMIN = "kubernetes-admin"


@dataclass(frozen=True)
class Asked:
    """What one request asked for, as access is decided on."""

    user: str
    verb: str
    group: str
    resource: str
    name: str
    allowed: bool


@dataclass
class Access:
    """Tokens, and the decisions that were made."""

    store: Store
    tokens: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def issue(self, user: str) -> str:
        """Return a new token of a user."""
        token = secrets.token_urlsafe(24)
        self.tokens[token] = user
        return token

    def user(self, authorization: str) -> str:
        """Return who sent a request, or raise 401."""
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            raise Fault(401, "Unauthorized")
        return self.tokens[token]

    def require(self, user: str, verb: str, kind: Kind, *, namespace: str, name: str = "", sub: str = "") -> None:
        """Raise 403 unless a role of the namespace allows it."""
        resource = f"{kind.plural}/{sub}" if sub else kind.plural
        allowed = user == ADMIN or any(
            _grants(rule, verb, kind.group, resource, name) for rule in self._rules(user, namespace)
        )
        self.asked.append(Asked(user, verb, kind.group, resource, name, allowed))
        if not allowed:
            where = f' in the namespace "{namespace}"' if namespace else " at the cluster scope"
            named = f' "{name}"' if name else ""
            raise Fault(
                403,
                f'{kind.qualified}{named} is forbidden: User "{user}" cannot {verb} resource "{resource}" '
                f'in API group "{kind.group}"{where}',
                details={"name": name, "group": kind.group, "kind": kind.plural},
            )

    def _rules(self, user: str, namespace: str) -> list[Object]:
        found: list[Object] = []
        for binding in self.store.list(ROLE_BINDINGS, namespace):
            subjects = {_user_of(subject, namespace) for subject in binding.get("subjects", [])}
            role = self.store.find(ROLES, namespace, binding["roleRef"]["name"])
            if user in subjects and role is not None:
                found += role.get("rules", [])
        return found


def account_user(namespace: str, name: str) -> str:
    """Return the user name of a service account."""
    return f"system:serviceaccount:{namespace}:{name}"


def _user_of(subject: Object, namespace: str) -> str:
    if subject["kind"] == "ServiceAccount":
        return account_user(subject.get("namespace", namespace), subject["name"])
    return str(subject["name"])


def _grants(rule: Object, verb: str, group: str, resource: str, name: str) -> bool:
    named = rule.get("resourceNames", [])
    return (
        bool({verb, "*"} & set(rule["verbs"]))
        and bool({group, "*"} & set(rule["apiGroups"]))
        and bool({resource, "*"} & set(rule["resources"]))
        and (not named or name in named)
    )
