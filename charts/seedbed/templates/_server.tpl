{{/*
A bundled server with one replica and a volume. Takes root, component, values, port, args, env,
mountPath, probe, extra (ports, volumes, mounts) as YAML text.
*/}}
{{- define "seedbed.server" -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ .root.Release.Name }}-{{ .component }}
  labels: {{- include "seedbed.labels" . | nindent 4 }}
spec:
  serviceName: {{ .root.Release.Name }}-{{ .component }}
  replicas: 1
  persistentVolumeClaimRetentionPolicy:
    whenDeleted: {{ ternary "Retain" "Delete" .root.Values.keepDataOnUninstall }}
    whenScaled: Retain
  selector:
    matchLabels: {{- include "seedbed.selector" . | nindent 6 }}
  template:
    metadata:
      labels: {{- include "seedbed.labels" . | nindent 8 }}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 30
      {{- include "seedbed.pod" (dict "root" .root "uid" .values.uid) | nindent 6 }}
      containers:
        - name: {{ .component }}
          image: "{{ .values.image.repository }}:{{ .values.image.tag }}"
          imagePullPolicy: {{ .values.image.pullPolicy }}
          {{- with .command }}
          command: {{- . | nindent 12 }}
          {{- end }}
          {{- with .args }}
          args: {{- . | nindent 12 }}
          {{- end }}
          {{- with .env }}
          env: {{- . | nindent 12 }}
          {{- end }}
          ports:
            - {name: client, containerPort: {{ .port }}}
          startupProbe: {{- .probe | nindent 12 }}
            periodSeconds: 2
            timeoutSeconds: 3
            failureThreshold: 90
          readinessProbe: {{- .probe | nindent 12 }}
            periodSeconds: 3
            timeoutSeconds: 3
          livenessProbe: {{- .probe | nindent 12 }}
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          {{- include "seedbed.containerSecurity" .root | nindent 10 }}
          resources: {{- toYaml .values.resources | nindent 12 }}
          volumeMounts:
            - {name: data, mountPath: {{ .mountPath }}}
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
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .values.storage.className }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ .values.storage.size }}
---
{{ include "seedbed.service" (dict "root" .root "component" .component "port" .port "portName" "client") }}
{{- end }}
