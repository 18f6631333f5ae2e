{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | quote }}
{{- end }}

{{- define "weir.selector" -}}
app.kubernetes.io/name: weir
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "weir.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{- /* What a container of any component has; takes a list: the root context, the container's values. */ -}}
{{- define "weir.container" -}}
{{- $root := index . 0 -}}
image: {{ include "weir.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{- end }}

{{- /* The API server by its own address: the service's is what weir makes work. */ -}}
{{- define "weir.apiServerEnv" -}}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .Values.apiServer.host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .Values.apiServer.port | quote }}
{{- end }}

{{- define "weir.fieldEnv" -}}
- name: {{ index . 0 }}
  valueFrom:
    fieldRef: {fieldPath: {{ index . 1 }}}
{{- end }}

{{- /* Drops every capability; the rest of a container's securityContext is its own. */ -}}
{{- define "weir.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- /* By what the program says of itself: healthy is who does all its work, or is prepared to take
over from the pod before it. Restarted is only who has not been so for ten minutes: until then, what
it waits for is more likely to come than a restart is to help. Takes a list: the program, its health
socket. */ -}}
{{- define "weir.probes" -}}
{{- $check := printf "[%s, --check-health, %s]" (index . 0) (index . 1) -}}
startupProbe:
  exec: {command: {{ $check }}}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 300
readinessProbe:
  exec: {command: {{ $check }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 2
livenessProbe:
  exec: {command: {{ $check }}}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 20
{{- end }}
