{{- /* Named templates that this chart and the umbrella share. */ -}}

{{- /* dict root, name → name of an object: <release>-<name>, a DNS label */ -}}
{{- define "gliaflow.fullname" -}}
{{- printf "%s-%s" .root.Release.Name (.name | replace "_" "-") | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* dict root, name → labels that choose pods; they can never change in a release */ -}}
{{- define "gliaflow.selector" -}}
app.kubernetes.io/name: {{ .name | replace "_" "-" }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end -}}

{{- /* dict root, name, component → labels of a pod: they change with the version alone */ -}}
{{- define "gliaflow.podLabels" -}}
{{ include "gliaflow.selector" . }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/part-of: gliaflow
app.kubernetes.io/version: {{ .root.Values.global.image.tag | default .root.Chart.AppVersion | quote }}
{{- end -}}

{{- /* dict root, name, component → labels of an object */ -}}
{{- define "gliaflow.labels" -}}
{{ include "gliaflow.podLabels" . }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | quote }}
{{- end -}}

{{- /* dict root, image {repository, digest}, repository → the image's full name */ -}}
{{- define "gliaflow.image" -}}
{{- $shared := .root.Values.global.image -}}
{{- $name := .image.repository | default .repository -}}
{{- if $shared.registry }}{{ $name = printf "%s/%s" (trimSuffix "/" $shared.registry) $name }}{{ end -}}
{{- if .image.digest -}}
{{ printf "%s@%s" $name .image.digest }}
{{- else -}}
{{ printf "%s:%s" $name ($shared.tag | default .root.Chart.AppVersion) }}
{{- end -}}
{{- end -}}

{{- /* root → stops where the shared values do not hold together */ -}}
{{- define "gliaflow.check" -}}
{{- $global := .Values.global -}}
{{- if not $global.token.existingSecret -}}
{{- fail "global.token.existingSecret is empty: services that others can reach refuse to start without a token; create a secret and name it (charts/README.md)" -}}
{{- end -}}
{{- if and $global.storage.pvc $global.storage.s3 -}}
{{- fail "global.storage names both pvc and s3: keep exactly one" -}}
{{- end -}}
{{- if and (not (kindIs "map" $global.storage.pvc)) (not $global.storage.s3) -}}
{{- fail "global.storage names neither pvc nor s3: keep exactly one" -}}
{{- end -}}
{{- if and $global.storage.s3 (not $global.network.storage) -}}
{{- fail "global.network.storage is empty: with s3, say where the object store listens, or no pod can reach it" -}}
{{- end -}}
{{- if and $global.monitoring.enabled (not $global.network.prometheus) -}}
{{- fail "global.network.prometheus is empty: with monitoring, say which pods scrape, or none gets through" -}}
{{- end -}}
{{- end -}}

{{- /* dict root, settings → GLIAFLOW_* variables that are no secrets, as the data of a ConfigMap */ -}}
{{- define "gliaflow.settings" -}}
{{- $storage := .root.Values.global.storage -}}
GLIAFLOW_ENVIRONMENT: {{ .root.Values.global.environment | quote }}
{{- if $storage.s3 }}
GLIAFLOW_STORAGE_ROOT: {{ printf "s3://%s" (list $storage.s3.bucket $storage.s3.prefix | compact | join "/") | quote }}
{{- with $storage.s3.region }}
AWS_DEFAULT_REGION: {{ . | quote }}
{{- end }}
{{- with $storage.s3.endpointUrl }}
AWS_ENDPOINT_URL: {{ . | quote }}
{{- end }}
{{- else }}
GLIAFLOW_STORAGE_ROOT: "/data"
{{- end }}
{{- range $name, $value := .settings }}
{{- /* Whole numbers come as floats, which large ones would show. */}}
{{- if kindIs "float64" $value }}{{ if eq $value (floor $value) }}{{ $value = int64 $value }}{{ end }}{{ end }}
{{ printf "GLIAFLOW_%s" (upper $name) }}: {{ $value | toString | quote }}
{{- end }}
{{- end -}}

{{- /* root → the data of a service's ConfigMap */ -}}
{{- define "gliaflow.serviceSettings" -}}
{{- $device := dict "device" (ternary "cuda" "cpu" .Values.gpu.enabled) -}}
{{- include "gliaflow.settings" (dict "root" . "settings" (merge $device .Values.settings)) -}}
{{- end -}}

{{- /* dict root, container, secretEnv → environment from secrets, the limits and the writable folders, as a list */ -}}
{{- define "gliaflow.env" -}}
{{- $global := .root.Values.global -}}
- name: GLIAFLOW_TOKEN
  valueFrom: {secretKeyRef: {name: {{ $global.token.existingSecret }}, key: {{ $global.token.key }}}}
{{- with $global.storage.s3 }}
{{- if .existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .accessKeyIdKey | default "access-key-id" }}}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .secretAccessKeyKey | default "secret-access-key" }}}}
{{- end }}
{{- end }}
{{- range $name, $source := .secretEnv }}
- name: {{ $name }}
  valueFrom: {secretKeyRef: {name: {{ $source.secret }}, key: {{ $source.key }}}}
{{- end }}
- name: GLIAFLOW_WORKERS
  valueFrom: {resourceFieldRef: {containerName: {{ .container }}, resource: limits.cpu, divisor: "1"}}
- name: OMP_NUM_THREADS
  valueFrom: {resourceFieldRef: {containerName: {{ .container }}, resource: limits.cpu, divisor: "1"}}
{{ include "gliaflow.folders" . }}
{{- end -}}

{{- /* environment that keeps every library inside the writable folders, as a list */ -}}
{{- define "gliaflow.folders" -}}
- {name: HOME, value: /tmp}
- {name: TMPDIR, value: /tmp}
- {name: MPLCONFIGDIR, value: /tmp/matplotlib}
- {name: NUMBA_CACHE_DIR, value: /var/cache/numba}
- {name: PREFECT_HOME, value: /tmp/prefect}
{{- end -}}

{{- define "gliaflow.mounts" -}}
- {name: scratch, mountPath: /tmp}
- {name: numba, mountPath: /var/cache/numba}
{{- if not .root.Values.global.storage.s3 }}
- {name: storage, mountPath: /data}
{{- end }}
{{- end -}}

{{- /* dict root, scratch */ -}}
{{- define "gliaflow.volumes" -}}
- name: scratch
  emptyDir: {sizeLimit: {{ .scratch.sizeLimit }}}
- name: numba
  emptyDir: {sizeLimit: 512Mi}
{{- if not .root.Values.global.storage.s3 }}
- name: storage
  persistentVolumeClaim:
    claimName: {{ (.root.Values.global.storage.pvc | default dict).existingClaim | default (include "gliaflow.fullname" (dict "root" .root "name" "storage")) }}
{{- end }}
{{- end -}}

{{- /* root → what the restricted Pod Security Standard asks of a pod */ -}}
{{- define "gliaflow.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ int64 .Values.global.user }}
runAsGroup: {{ int64 .Values.global.user }}
fsGroup: {{ int64 .Values.global.user }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "gliaflow.containerSecurity" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- /* root, as egress rules: what every pod needs */ -}}
{{- define "gliaflow.sharedEgress" -}}
- {{ .Values.global.network.dns | toYaml | nindent 2 | trim }}
{{- range .Values.global.network.storage }}
- {{ . | toYaml | nindent 2 | trim }}
{{- end }}
{{- end -}}
