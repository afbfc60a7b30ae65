{{/* What must be given; each message says the remedy. */}}
{{- define "tristream.check" -}}
{{- $file := required "run.file is missing: give the run file with --set-file run.file=run.toml" .Values.run.file -}}
{{- $run := fromToml $file -}}
{{- with $run.Error }}{{ fail (printf "run.file is not TOML: %s" .) }}{{ end -}}
{{- if not (dig "run" "id" "" $run) }}{{ fail "run.file has no run.id: add id = \"NAME\" to its section [run]" }}{{ end -}}
{{- $_ := required "kafka.bootstrapServers is missing: give the brokers, such as kafka-0.kafka:9092,kafka-1.kafka:9092" .Values.kafka.bootstrapServers -}}
{{- $_ := required "clickhouse.existingSecret is missing: give the name of a Secret that holds http://user:password@host:8123/database" .Values.clickhouse.existingSecret -}}
{{- $_ := required "store.uri is missing: give an address such as s3://bucket/run, or a folder of store.existingClaim" .Values.store.uri -}}
{{- range $key := list "run.id" "run.output" "bus.bootstrap_servers" "store.uri" "assembly.address" "monitoring.clickhouse_url" "monitoring.http_host" "monitoring.http_port" "metrics.port" -}}
{{- if hasKey $.Values.run.overrides $key }}{{ fail (printf "run.overrides has %q: the chart sets it from its own values" $key) }}{{ end -}}
{{- end -}}
{{- if and (hasPrefix "/" .Values.store.uri) (not .Values.store.existingClaim) }}{{ fail (printf "store.uri %q is a folder: give the claim that holds it in store.existingClaim" .Values.store.uri) }}{{ end -}}
{{- end }}
