{{/* Environment: each variable overrides a key of the run file. Strings are quoted as TOML strings. */}}
{{- define "tristream.environment" -}}
- name: HOME
  value: /tmp
- name: TRISTREAM__RUN__OUTPUT
  value: /var/lib/tristream
- name: TRISTREAM__BUS__BOOTSTRAP_SERVERS
  value: {{ .root.Values.kafka.bootstrapServers | toJson | quote }}
- name: TRISTREAM__STORE__URI
  value: {{ .root.Values.store.uri | toJson | quote }}
- name: TRISTREAM__ASSEMBLY__ADDRESS
{{- if eq .part "assembler" }}
  value: {{ printf "0.0.0.0:%d" (int64 .root.Values.assembler.port) | toJson | quote }}
{{- else }}
  value: {{ printf "%s:%d" (include "tristream.name" (dict "root" .root "part" "assembler")) (int64 .root.Values.assembler.port) | toJson | quote }}
{{- end }}
{{- if eq .part "monitor" }}
- name: TRISTREAM__MONITORING__CLICKHOUSE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .root.Values.clickhouse.existingSecret }}
      key: {{ .root.Values.clickhouse.key }}
- name: TRISTREAM__MONITORING__HTTP_HOST
  value: {{ "0.0.0.0" | toJson | quote }}
- name: TRISTREAM__MONITORING__HTTP_PORT
  value: {{ int64 .root.Values.monitor.port | toJson | quote }}
{{- end }}
{{- with int64 .root.Values.metrics.port }}
- name: TRISTREAM__METRICS__PORT
  value: {{ . | toJson | quote }}
{{- end }}
{{- range $key, $value := .root.Values.run.overrides }}
- name: {{ printf "TRISTREAM__%s" ($key | upper | replace "." "__") }}
  value: {{ $value | toJson | quote }}
{{- end }}
{{- end }}

{{/* Probes of a part by its status file; a part with a port has a better one for readiness. */}}
{{- define "tristream.probes" -}}
{{- $status := printf "/var/lib/tristream/%s/status/%s.json" (include "tristream.runId" .root) .part -}}
{{- $check := list "python" "/run/tristream/probe.py" $status (toString (int64 .values.silentSeconds)) -}}
startupProbe:
  exec:
    command: {{ append $check "ready" | toJson }}
  periodSeconds: 5
  timeoutSeconds: 10
  # Models and data may take half an hour to load.
  failureThreshold: 360
livenessProbe:
  exec:
    command: {{ $check | toJson }}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 3
readinessProbe:
{{- if eq .part "assembler" }}
  grpc:
    port: {{ int64 .values.port }}
{{- else if eq .part "monitor" }}
  httpGet:
    path: /healthz
    port: http
{{- else }}
  exec:
    command: {{ append $check "ready" | toJson }}
{{- end }}
  periodSeconds: 10
  timeoutSeconds: 10
{{- end }}

{{- define "tristream.mounts" -}}
- name: run-file
  mountPath: /run/tristream
  readOnly: true
- name: output
  mountPath: /var/lib/tristream
- name: temporary
  mountPath: /tmp
- name: shared-memory
  mountPath: /dev/shm
{{- with .root.Values.inputs }}{{ if .existingClaim }}
- name: inputs
  mountPath: {{ .mountPath }}
  readOnly: true
{{- end }}{{ end }}
{{- with .root.Values.store }}{{ if .existingClaim }}
- name: store
  mountPath: {{ .mountPath }}
{{- end }}{{ end }}
{{- end }}

{{- define "tristream.volumes" -}}
- name: run-file
  configMap:
    name: {{ include "tristream.name" (dict "root" .root "part" "run-file") }}
{{- if ne .part "learner" }}
- name: output
  emptyDir: {}
{{- end }}
- name: temporary
  emptyDir: {}
- name: shared-memory
  emptyDir:
    medium: Memory
{{- with .root.Values.inputs.existingClaim }}
- name: inputs
  persistentVolumeClaim:
    claimName: {{ . }}
    readOnly: true
{{- end }}
{{- with .root.Values.store.existingClaim }}
- name: store
  persistentVolumeClaim:
    claimName: {{ . }}
{{- end }}
{{- end }}

{{- define "tristream.container" -}}
name: {{ .part }}
image: {{ include "tristream.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- if gt (int (default 1 .values.ranks)) 1 }}
command: {{ list "torchrun" "--standalone" "--nproc-per-node" (toString (int64 .values.ranks)) "--no-python" "--" "tristream" | toJson }}
{{- end }}
args: {{ list .command "--run" "/run/tristream/run.toml" | toJson }}
workingDir: /var/lib/tristream
env:
  {{- include "tristream.environment" . | nindent 2 }}
{{- with .root.Values.store.existingSecret }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
{{- $metricsPort := int64 .root.Values.metrics.port }}
{{- if or .values.port $metricsPort }}
ports:
{{- with .values.port }}
  - name: {{ ternary "http" "grpc" (eq $.part "monitor") }}
    containerPort: {{ int64 . }}
{{- end }}
{{- with $metricsPort }}
  - name: metrics
    containerPort: {{ . }}
{{- end }}
{{- end }}
{{ include "tristream.probes" . }}
{{- $resources := deepCopy .values.resources }}
{{- if gt (int .values.gpus) 0 }}
{{- $_ := set $resources "limits" (merge (dict "nvidia.com/gpu" (int64 .values.gpus)) ($resources.limits | default dict)) }}
{{- end }}
resources:
  {{- toYaml $resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  {{- include "tristream.mounts" . | nindent 2 }}
{{- end }}

{{/* Pod template of a part; arguments: root, part, command, values. */}}
{{- define "tristream.podTemplate" -}}
metadata:
  labels:
    {{- include "tristream.selector" . | nindent 4 }}
  annotations:
    tristream/run-file-sha256: {{ .root.Values.run.file | sha256sum }}
{{- if and .root.Values.metrics.port (not .root.Values.metrics.podMonitor) }}
    prometheus.io/scrape: "true"
    prometheus.io/port: {{ int64 .root.Values.metrics.port | toString | quote }}
    prometheus.io/path: /metrics
{{- end }}
spec:
  automountServiceAccountToken: false
  {{- with .root.Values.serviceAccountName }}
  serviceAccountName: {{ . }}
  {{- end }}
  # Variables of services have the prefix TRISTREAM_ as well.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int64 .values.terminationGracePeriodSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ int64 .root.Values.userId }}
    runAsGroup: {{ int64 .root.Values.userId }}
    fsGroup: {{ int64 .root.Values.userId }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - {{ include "tristream.container" . | indent 6 | trim }}
  volumes:
    {{- include "tristream.volumes" . | nindent 4 }}
{{- end }}

{{/* Deployment of a part; arguments as above, and replicas. One that must be alone is stopped before its successor starts. */}}
{{- define "tristream.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "tristream.name" . }}
  labels:
    {{- include "tristream.labels" . | nindent 4 }}
spec:
  replicas: {{ int64 .replicas }}
  strategy:
    type: {{ ternary "Recreate" "RollingUpdate" .isAlone }}
  selector:
    matchLabels:
      {{- include "tristream.selector" . | nindent 6 }}
  template:
    {{- include "tristream.podTemplate" . | nindent 4 }}
{{- end }}

{{/* Service of a part with a port. */}}
{{- define "tristream.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "tristream.name" . }}
  labels:
    {{- include "tristream.labels" . | nindent 4 }}
spec:
  selector:
    {{- include "tristream.selector" . | nindent 4 }}
  ports:
    - name: {{ .port }}
      port: {{ int64 .values.port }}
      targetPort: {{ .port }}
{{- end }}
