{{- /* root → the data of the ConfigMap that jobs run with */ -}}
{{- define "gliaflow.pipelineSettings" -}}
{{ include "gliaflow.settings" (dict "root" . "settings" .Values.pipelines.settings) }}
{{- range list "preprocessing" "segmentation" "feature_store" "model_serving" "survival_analytics" }}
{{ printf "GLIAFLOW_%s_URL" (upper .) }}: http://{{ include "gliaflow.fullname" (dict "root" $ "name" .) }}:3000
{{- end }}
GLIAFLOW_KUBERNETES_NAMESPACE: {{ .Release.Namespace }}
GLIAFLOW_KUBERNETES_DEPLOYMENT: {{ include "gliaflow.fullname" (dict "root" . "name" "model_serving") }}
GLIAFLOW_WORK_POOL: {{ .Values.prefect.pool | quote }}
{{- end -}}

{{- /* root → the work pool's base job template: what the worker makes of a flow run, with placeholders for job variables */ -}}
{{- define "gliaflow.jobTemplate" -}}
{{- /* Prefect adds its own version and part-of; network policies choose by these three. */ -}}
{{- $labels := dict "app.kubernetes.io/name" "{{ role }}" "app.kubernetes.io/instance" .Release.Name "app.kubernetes.io/component" "pipelines" -}}
{{- $jobs := .Values.jobs -}}
{{- $env := include "gliaflow.env" (dict "root" . "container" "prefect-job" "secretEnv" .Values.pipelines.secretEnv) | fromYamlArray -}}
{{- $limits := dict "cpu" "{{ cpu_limit }}" "memory" "{{ memory_limit }}" -}}
{{- $_ := set $limits $jobs.gpu.resource "{{ gpus }}" -}}
{{- $mounts := append (include "gliaflow.mounts" (dict "root" .) | fromYamlArray) (dict "name" "shared-memory" "mountPath" "/dev/shm") -}}
{{- $memory := dict "name" "shared-memory" "emptyDir" (dict "medium" "Memory" "sizeLimit" $jobs.sharedMemory) -}}
{{- $volumes := append (include "gliaflow.volumes" (dict "root" . "scratch" $jobs.scratch) | fromYamlArray) $memory -}}
{{- /* Prefect insists on the container's name; env runs whatever command comes, whatever the image's entry point is. */ -}}
{{- $container := dict
    "name" "prefect-job"
    "image" "{{ image }}"
    "imagePullPolicy" .Values.global.image.pullPolicy
    "command" (list "/usr/bin/env")
    "args" "{{ command }}"
    "terminationMessagePolicy" "FallbackToLogsOnError"
    "envFrom" (list (dict "configMapRef" (dict "name" (include "gliaflow.fullname" (dict "root" . "name" "pipelines")))))
    "env" $env
    "resources" (dict "requests" (dict "cpu" "{{ cpu_request }}" "memory" "{{ memory_request }}") "limits" $limits)
    "securityContext" (include "gliaflow.containerSecurity" . | fromYaml)
    "volumeMounts" $mounts -}}
{{- $pod := dict
    "restartPolicy" "Never"
    "serviceAccountName" (printf "%s-{{ role }}" .Release.Name)
    "enableServiceLinks" false
    "securityContext" (include "gliaflow.podSecurity" . | fromYaml)
    "nodeSelector" "{{ node_selector }}"
    "tolerations" $jobs.gpu.tolerations
    "containers" (list $container)
    "volumes" $volumes -}}
{{- with .Values.global.image.pullSecrets -}}
{{- $secrets := list -}}
{{- range . }}{{ $secrets = append $secrets (dict "name" .) }}{{ end -}}
{{- $_ := set $pod "imagePullSecrets" $secrets -}}
{{- end -}}
{{- if $jobs.gpu.runtimeClassName }}{{ $_ := set $pod "runtimeClassName" "{{ runtime_class }}" }}{{ end -}}
{{- $manifest := dict
    "apiVersion" "batch/v1"
    "kind" "Job"
    "metadata" (dict "namespace" "{{ namespace }}" "generateName" "{{ name }}-" "labels" $labels)
    "spec" (dict
      "backoffLimit" 0
      "parallelism" 1
      "completions" 1
      "ttlSecondsAfterFinished" (int $jobs.keepFinishedSeconds)
      "activeDeadlineSeconds" "{{ deadline_seconds }}"
      "template" (dict "metadata" (dict "labels" $labels) "spec" $pod)) -}}
{{- $text := dict "type" "string" -}}
{{- $variables := dict
    "name" (dict "type" "string" "default" "job")
    "namespace" (dict "type" "string" "enum" (list .Release.Namespace) "default" .Release.Namespace)
    "image" (dict "type" "string" "default" (include "gliaflow.image" (dict "root" . "image" .Values.pipelines.image "repository" "gliaflow/pipelines")))
    "command" (dict "type" "string" "description" "What to run; the flow run where none is given")
    "env" (dict "type" "object" "additionalProperties" $text "default" dict)
    "labels" (dict "type" "object" "additionalProperties" $text "default" dict)
    "role" (dict "type" "string" "enum" (ternary (list "job" "promoter") (list "job") .Values.promotion.enabled) "default" "job" "description" "job: no access to Kubernetes; promoter: may roll model_serving out")
    "cpu_request" (dict "type" "string" "default" (toString $jobs.resources.requests.cpu))
    "cpu_limit" (dict "type" "string" "default" (toString $jobs.resources.limits.cpu))
    "memory_request" (dict "type" "string" "default" (toString $jobs.resources.requests.memory))
    "memory_limit" (dict "type" "string" "default" (toString $jobs.resources.limits.memory))
    "gpus" (dict "type" "integer" "minimum" 0 "default" 0)
    "node_selector" (dict "type" "object" "additionalProperties" $text "default" dict)
    "runtime_class" (dict "type" "string" "description" (printf "Jobs with GPUs: %s" ($jobs.gpu.runtimeClassName | default "none")))
    "deadline_seconds" (dict "type" "integer" "minimum" 1 "default" 86400 "description" "Seconds after which the job is ended, Pending included") -}}
{{- $configuration := dict
    "name" "{{ name }}"
    "namespace" "{{ namespace }}"
    "command" "{{ command }}"
    "env" "{{ env }}"
    "labels" "{{ labels }}"
    "job_manifest" $manifest -}}
{{- dict "variables" (dict "type" "object" "properties" $variables) "job_configuration" $configuration | toPrettyJson -}}
{{- end -}}
