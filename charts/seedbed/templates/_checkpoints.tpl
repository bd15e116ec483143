{{/* Checkpoints of runs: the key ring's Secret, where their bytes go; variables, mounts and volumes as YAML text. */}}
{{- define "seedbed.checkpointSecret" -}}
{{ .Values.engine.checkpoints.keySecret | default (printf "%s-checkpoint-keys" .Release.Name) }}
{{- end }}

{{- define "seedbed.checkpointsEnv" -}}
- {name: SEEDBED_CHECKPOINT_KEYS, value: /etc/seedbed/checkpoints/keys}
- {name: SEEDBED_RUN_RETENTION, value: {{ .Values.engine.runRetention | quote }}}
{{- with .Values.engine.checkpoints.url | default (ternary "file:///checkpoints" "" (not (empty .Values.engine.checkpoints.volume))) }}
- {name: SEEDBED_CHECKPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- range .Values.engine.checkpoints.credentials }}
- name: {{ .env }}
  valueFrom:
    secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}
{{- end }}
{{- end }}

{{- define "seedbed.checkpointsMounts" -}}
- {name: checkpoint-keys, mountPath: /etc/seedbed/checkpoints, readOnly: true}
{{- if .Values.engine.checkpoints.volume }}
- {name: checkpoints, mountPath: /checkpoints}
{{- end }}
{{- end }}

{{- define "seedbed.checkpointsVolumes" -}}
- name: checkpoint-keys
  secret: {secretName: {{ include "seedbed.checkpointSecret" . }}, defaultMode: 0440}
{{- with .Values.engine.checkpoints.volume }}
- name: checkpoints
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
