"""A stand-in on loopback that speaks NBIA's and the GDC's interfaces for a few patients, with faults on demand."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import urllib.parse
import uuid
import zipfile
from collections import defaultdict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from pipelines.fetch.connection import Connection, Patience
from services.shared.settings import settings

DATE = "Sat, 21 Nov 2026 06:21:04 GMT"
GENES = [f"ENSG{number:011d}.{number % 5 + 1}" for number in range(1, 31)]


def dicom(patient: str, number: int) -> bytes:
    """The bytes of a file that begins as DICOM does."""
    return bytes(128) + b"DICM" + f"{patient} {number}".encode() * 40


def archive(files: dict[str, bytes], *, listing: str | None = None) -> bytes:
    """A ZIP archive as NBIA sends it."""
    stated = "".join(f"{name},{hashlib.md5(data).hexdigest()}\n" for name, data in files.items())
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as content:
        for name, data in {"LICENSE": b"CC BY 3.0", **files}.items():
            content.writestr(name, data)
        content.writestr("md5hashes.csv", "Filename,MD5Hash\n" + stated if listing is None else listing)
    return buffer.getvalue()


def star_counts(seed: int, genes: list[str] = GENES) -> bytes:
    """A file of STAR gene counts as the GDC lays it out."""
    rng = np.random.default_rng(seed)
    head = "gene_id gene_name gene_type unstranded stranded_first stranded_second tpm_unstranded fpkm_unstranded"
    lines = ["# gene-model: GENCODE v36", "\t".join([*head.split(), "fpkm_uq_unstranded"])]
    lines += [f"{name}\t\t\t{seed}\t{seed}\t{seed}\t\t\t" for name in ("N_unmapped", "N_multimapping")]
    lines += [f"{name}\t\t\t{seed}\t{seed}\t{seed}\t\t\t" for name in ("N_noFeature", "N_ambiguous")]
    for number, gene in enumerate(genes):
        count = int(rng.integers(0, 5000))
        lines.append(f"{gene}\tGENE{number}\tprotein_coding\t{count}\t0\t0\t{count / 7:.4f}\t{count / 9:.4f}\t0.0")
    return ("\n".join(lines) + "\n").encode()


class StandIn:
    """What the publishers hold, the requests that came, and faults by path: each is used once, in order."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.series: list[dict[str, object]] = []
        self.archives: dict[str, bytes] = {}
        self.gdc_files: list[dict[str, object]] = []
        self.gdc_cases: list[dict[str, object]] = []
        self.lock = threading.Lock()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, path: str) -> list[dict[str, str]]:
        """Headers of the requests to a path, in order."""
        return [headers for _, where, headers in self.requests if where.startswith(path)]

    def fault(self, path: str) -> str:
        with self.lock:
            waiting = next((left for start, left in self.faults.items() if path.startswith(start) and left), None)
            return waiting.pop(0) if waiting else ""

    def add_series(self, patient: str, number: int, images: int = 3, **columns: object) -> str:
        uid = f"1.3.6.1.4.1.14519.5.2.1.{number}"
        files = {f"1-{image:02d}.dcm": dicom(patient, number * 100 + image) for image in range(1, images + 1)}
        self.archives[uid] = archive(files)
        self.series.append(
            {
                "SeriesInstanceUID": uid,
                "StudyInstanceUID": f"1.3.6.1.4.1.14519.9.{len(patient)}",
                "Modality": "MR",
                "SeriesNumber": number,
                "Collection": "TCGA-LGG",
                "PatientID": patient,
                "ImageCount": images,
                "FileSize": sum(map(len, files.values())),
                "LicenseName": "Creative Commons Attribution 3.0 Unported License",
                "LicenseURI": "https://creativecommons.org/licenses/by/3.0/",
            }
            | columns
        )
        return uid

    def add_sample(self, patient: str, *, vial: str = "01A", aliquot: str = "11R-1849-01", seed: int = 0) -> str:
        file_id = str(uuid.UUID(int=len(self.gdc_files) + 1))
        content = star_counts(seed or len(self.gdc_files) + 1)
        self.files[f"/data/{file_id}"] = content
        kind = {"01": "Primary Tumor", "02": "Recurrent Tumor", "11": "Solid Tissue Normal"}[vial[:2]]
        self.gdc_files.append(
            {
                "id": file_id,
                "file_id": file_id,
                "file_name": "../../etc/passwd",
                "file_size": len(content),
                "md5sum": hashlib.md5(content).hexdigest(),
                "access": "open",
                "associated_entities": [{"entity_submitter_id": f"{patient}-{vial}-{aliquot}"}],
                "cases": [
                    {
                        "submitter_id": patient,
                        "project": {"project_id": "TCGA-LGG"},
                        "samples": [{"submitter_id": f"{patient}-{vial}", "sample_type": kind}],
                    }
                ],
            }
        )
        return file_id

    def restate(self, file_id: str, content: bytes) -> None:
        """Publish another content under a file id."""
        self.files[f"/data/{file_id}"] = content
        for hit in self.gdc_files:
            if hit["file_id"] == file_id:
                hit["file_size"], hit["md5sum"] = len(content), hashlib.md5(content).hexdigest()


def _handler(held: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def date_time_string(self, timestamp: float | None = None) -> str:
            return DATE

        def do_GET(self) -> None:
            parts = urllib.parse.urlsplit(self.path)
            query = dict(urllib.parse.parse_qsl(parts.query))
            self._answer(parts.path, lambda: self._get(parts.path, query))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(self.path, lambda: self._search(body))

        def _answer(self, path: str, respond: Callable[[], None]) -> None:
            held.requests.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
            self.fault = held.fault(path)
            name, _, argument = self.fault.partition(":")
            if name == "status":
                status, *headers = argument.split(";")
                self._send(b"{}", status=int(status), headers=dict(h.split("=", 1) for h in headers))
            elif name == "html":
                self._send(b"<html>maintenance</html>", headers={"Content-Type": "text/html; charset=utf-8"})
            elif name == "redirect":
                self._send(b"", status=302, headers={"Location": argument})
            else:
                respond()

        def _send(self, content: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
            name, _, argument = self.fault.partition(":")
            headers = {"Content-Type": "application/octet-stream", **(headers or {})}
            length = len(content) + (int(argument or 7) if name == "truncated" else 0)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if name == "cut":
                content = content[: int(argument)]
            self.wfile.write(content)
            if name in ("cut", "truncated"):
                self.wfile.flush()
                self.close_connection = True

        def _get(self, path: str, query: dict[str, str]) -> None:
            if path == "/nbia/getSeries":
                if set(query) - {"Collection", "Modality", "PatientID", "format"}:
                    return self._send(b"Invalid query parameter", status=400)
                rows = [
                    row
                    for row in held.series
                    if row["Collection"] == query["Collection"] and row["Modality"] == query["Modality"]
                ]
                return self._json(rows) if rows else self._send(b"")
            if path == "/nbia/getImageWithMD5Hash":
                return self._chunked(held.archives[query["SeriesInstanceUID"]])
            if path not in held.files:
                return self._send(b"{}", status=404)
            content, etag = held.files[path], held.etags.get(path)
            headers = {"ETag": etag} if etag else {}
            wanted = self.headers.get("Range")
            if wanted and self.headers.get("If-Range") in (None, etag) and self.fault != "no-range":
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(content):
                    return self._send(b"", status=416)
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                return self._send(content[start:], status=206, headers=headers)
            return self._send(content, headers=headers)

        def _chunked(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/zip")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(content), 500):
                chunk = content[start : start + 500]
                self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
                if self.fault == "cut":
                    self.close_connection = True
                    return
            self.wfile.write(b"0\r\n\r\n")

        def _search(self, body: dict[str, object]) -> None:
            wanted = {part["content"]["field"]: part["content"]["value"] for part in body["filters"]["content"]}
            assert all(part["op"] == "in" for part in body["filters"]["content"])
            hits = held.gdc_files if self.path == "/files" else held.gdc_cases
            if self.path == "/files":
                assert wanted["files.analysis.workflow_type"] == ["STAR - Counts"]
                assert wanted["files.access"] == ["open"]
            else:
                assert wanted["project.project_id"] == ["TCGA-GBM", "TCGA-LGG"]
                chosen = wanted.get("submitter_id")
                hits = [hit for hit in hits if chosen is None or hit["submitter_id"] in chosen]
            key, _, direction = str(body["sort"]).partition(":")
            assert direction == "asc"
            start, size = int(body["from"]), min(int(body["size"]), held.page)
            page = sorted(hits, key=lambda hit: hit[key])[start : start + size]
            pagination = {"count": len(page), "total": len(hits), "size": size, "from": start}
            self._json({"data": {"hits": page, "pagination": pagination}, "warnings": {}})

        def _json(self, value: object) -> None:
            self._send(json.dumps(value).encode(), headers={"Content-Type": "application/json"})

    return Handler


@pytest.fixture
def stand_in(monkeypatch):
    """The stand-in, which the settings name as both publishers."""
    held = StandIn()
    held.page = 500
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(held))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # a client that hangs up is a case to test, not a fault
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    held.port = server.server_port
    monkeypatch.setenv("GLIAFLOW_GDC_URL", held.url)
    monkeypatch.setenv("GLIAFLOW_TCIA_URL", f"{held.url}/nbia")
    settings.cache_clear()
    yield held
    settings.cache_clear()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def quick():
    """Patience that does not wait."""
    return Patience(attempts=4, first_wait_s=0.001, longest_wait_s=30.0, timeout_s=5.0)


@pytest.fixture
def waits():
    """The seconds that a connection would have waited."""
    return []


@pytest.fixture
def connection(quick, waits):
    """A connection that notes its waits in place of waiting."""
    with Connection(quick, wait=waits.append) as opened:
        yield opened
