{{/* Name of the release's objects: RELEASE-PART. */}}
{{- define "tristream.name" -}}
{{ printf "%s-%s" (trunc 40 .root.Release.Name | trimSuffix "-") .part }}
{{- end }}

{{/* Labels that select the pods of a part. */}}
{{- define "tristream.selector" -}}
app.kubernetes.io/name: tristream
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "tristream.labels" -}}
{{ include "tristream.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{/* Image of a part. */}}
{{- define "tristream.image" -}}
{{- $image := .root.Values.image -}}
{{ with $image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ get $image.names .part }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end }}

{{/* Id of the run, which names its folder. */}}
{{- define "tristream.runId" -}}
{{ dig "run" "id" "unknown" (fromToml .Values.run.file) }}
{{- end }}
