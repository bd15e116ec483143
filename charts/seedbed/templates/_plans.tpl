{{/* Where engines may read plans from: variables, a volume and its mount, as YAML text. */}}
{{- define "seedbed.plansEnv" -}}
{{- with .Values.engine.plans.hosts }}
- {name: SEEDBED_PLAN_HOSTS, value: {{ join "," . | quote }}}
{{- end }}
{{- if .Values.engine.plans.volume }}
- {name: SEEDBED_PLAN_FOLDER, value: /plans}
{{- end }}
{{- end }}

{{- define "seedbed.plansMounts" -}}
{{- if .Values.engine.plans.volume }}
- {name: plans, mountPath: /plans, readOnly: true}
{{- end }}
{{- end }}

{{- define "seedbed.plansVolumes" -}}
{{- with .Values.engine.plans.volume }}
- name: plans
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
