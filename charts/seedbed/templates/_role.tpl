{{/*
One role of the product as a Deployment. Takes root, component, values (of the role), account,
env (YAML text), ports (YAML text), volumes and mounts (YAML text).
*/}}
{{- define "seedbed.role" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  labels: {{- include "seedbed.labels" . | nindent 4 }}
spec:
  replicas: {{ .values.replicas }}
  selector:
    matchLabels: {{- include "seedbed.selector" . | nindent 6 }}
  template:
    metadata:
      labels: {{- include "seedbed.labels" . | nindent 8 }}
      annotations:
        {{- if eq .component "gateway" }}
        checksum/models: {{ toYaml .root.Values.gateway | sha256sum }}
        {{- end }}
        {{- with .root.Values.image.digest }}
        seedbed.dev/image-digest: {{ . | quote }}
        {{- end }}
        kubectl.kubernetes.io/default-container: {{ .component }}
    spec:
      serviceAccountName: {{ .root.Release.Name }}-{{ .component }}
      automountServiceAccountToken: {{ .token | default false }}
      terminationGracePeriodSeconds: 30
      {{- include "seedbed.pod" (dict "root" .root) | nindent 6 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels: {{- include "seedbed.selector" . | nindent 14 }}
      containers:
        - name: {{ .component }}
          image: {{ include "seedbed.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: [serve, {{ .component }}]
          env:
            {{- include "seedbed.commonEnv" .root | nindent 12 }}
            {{- with .env }}
            {{- . | nindent 12 }}
            {{- end }}
          ports:
            - {name: health, containerPort: 8080}
            {{- with .ports }}
            {{- . | nindent 12 }}
            {{- end }}
          {{- include "seedbed.probes" . | nindent 10 }}
          {{- include "seedbed.containerSecurity" .root | nindent 10 }}
          resources: {{- toYaml .values.resources | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- with .mounts }}
            {{- . | nindent 12 }}
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {}
        {{- with .volumes }}
        {{- . | nindent 8 }}
        {{- end }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  labels: {{- include "seedbed.labels" . | nindent 4 }}
automountServiceAccountToken: false
{{- if gt (int .values.replicas) 1 }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  labels: {{- include "seedbed.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "seedbed.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{- define "seedbed.service" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  labels: {{- include "seedbed.labels" . | nindent 4 }}
spec:
  selector: {{- include "seedbed.selector" . | nindent 4 }}
  ports:
    - {name: {{ .portName | default "http" }}, port: {{ .port }}, targetPort: {{ .target | default .port }}}
{{- end }}
