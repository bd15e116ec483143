{{- define "seedbed.labels" -}}
app.kubernetes.io/name: seedbed
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "seedbed.selector" -}}
app.kubernetes.io/name: seedbed
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "seedbed.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* The image of SeedLayers' pods: the product with torch. */}}
{{- define "seedbed.seedsImage" -}}
{{ .Values.seeds.image.repository }}:{{ .Values.seeds.image.tag | default .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "seedbed.host" -}}
{{ .root.Release.Name }}-{{ .component }}.{{ .root.Release.Namespace }}.svc
{{- end }}

{{/* The port that a URL or HOST:PORT names. */}}
{{- define "seedbed.portOf" -}}
{{- $host := (urlParse (ternary .url (printf "tcp://%s" .url) (contains "://" .url))).host -}}
{{ regexFind ":[0-9]+$" $host | trimPrefix ":" | default (toString .default) }}
{{- end }}

{{- define "seedbed.natsUrl" -}}
{{ .Values.nats.external.url | default (printf "nats://%s:4222" (include "seedbed.host" (dict "root" . "component" "nats"))) }}
{{- end }}

{{- define "seedbed.etcdEndpoint" -}}
{{ .Values.etcd.external.endpoint | default (printf "%s:2379" (include "seedbed.host" (dict "root" . "component" "etcd"))) }}
{{- end }}

{{- define "seedbed.databaseUrl" -}}
{{ .Values.postgres.external.url | default (printf "postgresql+asyncpg://seedbed@%s:5432/seedbed" (include "seedbed.host" (dict "root" . "component" "postgres"))) }}
{{- end }}

{{- define "seedbed.gatewayUrl" -}}
http://{{ include "seedbed.host" (dict "root" . "component" "gateway") }}:8000
{{- end }}

{{- define "seedbed.passwordFrom" -}}
secretKeyRef:
  name: {{ if .Values.postgres.external.url }}{{ required "postgres.external.passwordSecret.name is needed with postgres.external.url" .Values.postgres.external.passwordSecret.name }}{{ else }}{{ .Release.Name }}-postgres{{ end }}
  key: {{ if .Values.postgres.external.url }}{{ .Values.postgres.external.passwordSecret.key }}{{ else }}password{{ end }}
{{- end }}

{{/* Settings of every pod: restricted Pod Security, placement. */}}
{{- define "seedbed.pod" -}}
# Service links would set variables such as SEEDBED_WEBHOOK_PORT, which are settings of ours.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .uid | default 65532 }}
  runAsGroup: {{ .uid | default 65532 }}
  fsGroup: {{ .uid | default 65532 }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{- define "seedbed.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Variables that every role of the product gets. */}}
{{- define "seedbed.commonEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: SEEDBED_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
- name: SEEDBED_NATS_URL
  value: {{ include "seedbed.natsUrl" . | quote }}
- name: SEEDBED_EVENTS
  value: {{ toJson .Values.nats.events | quote }}
- name: SEEDBED_ETCD_ENDPOINT
  value: {{ include "seedbed.etcdEndpoint" . | quote }}
{{- end }}

{{- define "seedbed.databaseEnv" -}}
- name: SEEDBED_DATABASE_URL
  value: {{ include "seedbed.databaseUrl" . | quote }}
- name: SEEDBED_DATABASE_PASSWORD
  valueFrom: {{- include "seedbed.passwordFrom" . | nindent 4 }}
{{- end }}

{{- define "seedbed.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: health}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: health}
  {{- if eq .component "operator" }}
  # The API server waits for the webhook of a replica that hangs: it is taken out within 6 seconds.
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
  {{- else }}
  periodSeconds: 3
  timeoutSeconds: 5
  {{- end }}
{{- end }}
