// The work of hack/bench/reconcile.py on controller-runtime: a Pool makes one Deployment and one status.
//
// Set up as the project's documentation recommends: typed clients, a cache fed by watches, the children
// watched through their owner, leader election, metrics, as many reconciles at a time as Seedbed's
// operator does, and no limit on the client's requests. What Seedbed's operator does beside it is not
// done here: no live settings, no fencing, no validation of the spec, no repair of single fields that
// the API server has set, no admission, one kind instead of four.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const poolLabel = "seedbed.dev/pool"

// Pool is as much of the kind as the work needs.
type Pool struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              PoolSpec   `json:"spec,omitempty"`
	Status            PoolStatus `json:"status,omitempty"`
}

// PoolSpec says how many worker pods there should be.
type PoolSpec struct {
	Replicas *int32 `json:"replicas,omitempty"`
	Suspend  bool   `json:"suspend,omitempty"`
}

// PoolStatus says what there is.
type PoolStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
	Replicas           int32              `json:"replicas"`
	ReadyReplicas      int32              `json:"readyReplicas"`
	Workers            int32              `json:"workers"`
	Selector           string             `json:"selector,omitempty"`
}

// PoolList is many of them.
type PoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Pool `json:"items"`
}

// DeepCopyInto copies everything.
func (p *Pool) DeepCopyInto(out *Pool) {
	*out = *p
	p.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	if p.Spec.Replicas != nil {
		replicas := *p.Spec.Replicas
		out.Spec.Replicas = &replicas
	}
	out.Status.Conditions = append([]metav1.Condition(nil), p.Status.Conditions...)
}

// DeepCopyObject copies everything.
func (p *Pool) DeepCopyObject() runtime.Object {
	out := new(Pool)
	p.DeepCopyInto(out)
	return out
}

// DeepCopyObject copies everything.
func (l *PoolList) DeepCopyObject() runtime.Object {
	out := &PoolList{TypeMeta: l.TypeMeta, Items: make([]Pool, len(l.Items))}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	for i := range l.Items {
		l.Items[i].DeepCopyInto(&out.Items[i])
	}
	return out
}

type reconciler struct {
	client.Client
	scheme *runtime.Scheme
	// The Deployment that Seedbed makes for a Pool of the name templateName.
	template     appsv1.Deployment
	templateName string
}

// Reconcile brings one Pool's Deployment and status to what they should be.
func (r *reconciler) Reconcile(ctx context.Context, request ctrl.Request) (ctrl.Result, error) {
	var pool Pool
	if err := r.Get(ctx, request.NamespacedName, &pool); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !pool.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, nil
	}
	found, err := r.deployment(ctx, &pool)
	if err != nil {
		return ctrl.Result{}, err
	}
	before := pool.Status.DeepCopy()
	tell(&pool, found)
	if equality.Semantic.DeepEqual(*before, pool.Status) {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, r.Status().Update(ctx, &pool)
}

// DeepCopy copies everything.
func (s *PoolStatus) DeepCopy() *PoolStatus {
	out := *s
	out.Conditions = append([]metav1.Condition(nil), s.Conditions...)
	return &out
}

func (r *reconciler) deployment(ctx context.Context, pool *Pool) (*appsv1.Deployment, error) {
	wanted, err := r.wanted(pool)
	if err != nil {
		return nil, err
	}
	found := new(appsv1.Deployment)
	err = r.Get(ctx, client.ObjectKeyFromObject(wanted), found)
	switch {
	case errors.IsNotFound(err):
		return wanted, r.Create(ctx, wanted)
	case err != nil:
		return nil, err
	case equality.Semantic.DeepDerivative(wanted.Spec, found.Spec) &&
		equality.Semantic.DeepDerivative(wanted.Labels, found.Labels):
		return found, nil
	}
	changed := found.DeepCopy()
	changed.Spec, changed.Labels = wanted.Spec, wanted.Labels
	return changed, r.Update(ctx, changed)
}

func (r *reconciler) wanted(pool *Pool) (*appsv1.Deployment, error) {
	made := r.template.DeepCopy()
	made.Name, made.Namespace = pool.Name+"-workers", pool.Namespace
	made.Labels[poolLabel] = pool.Name
	made.Spec.Replicas = pool.Spec.Replicas
	made.Spec.Selector.MatchLabels[poolLabel] = pool.Name
	made.Spec.Template.Labels[poolLabel] = pool.Name
	environment := made.Spec.Template.Spec.Containers[0].Env
	for i := range environment {
		if environment[i].Value == r.templateName {
			environment[i].Value = pool.Name
		}
	}
	return made, ctrl.SetControllerReference(pool, made, r.scheme)
}

func tell(pool *Pool, found *appsv1.Deployment) {
	status := &pool.Status
	status.ObservedGeneration = pool.Generation
	status.Replicas = found.Status.Replicas
	status.ReadyReplicas = found.Status.ReadyReplicas
	status.Selector = poolLabel + "=" + pool.Name
	ready, reason, message := metav1.ConditionTrue, "ScaledToZero", "no worker pods are wanted"
	if wanted := *pool.Spec.Replicas; wanted > found.Status.ReadyReplicas {
		ready, reason = metav1.ConditionFalse, "PodsNotReady"
		message = fmt.Sprintf("%d of %d pods ready", found.Status.ReadyReplicas, wanted)
	}
	for _, each := range []metav1.Condition{
		{Type: "Ready", Status: ready, Reason: reason, Message: message},
		{Type: "Reconciling", Status: metav1.ConditionFalse, Reason: reason, Message: message},
		{Type: "Stalled", Status: metav1.ConditionFalse, Reason: reason, Message: message},
		{Type: "Suspended", Status: metav1.ConditionFalse, Reason: "Active", Message: "spec.suspend is not set"},
	} {
		each.ObservedGeneration = pool.Generation
		meta.SetStatusCondition(&status.Conditions, each)
	}
}

func main() {
	metrics := flag.String("metrics", "127.0.0.1:8080", "where metrics are served")
	namespace := flag.String("namespace", "default", "where the election's lease lies")
	template := flag.String("template", "", "file with the Deployment of a Pool")
	name := flag.String("template-pool", "template", "name of that Pool")
	concurrency := flag.Int("concurrency", 16, "reconciles at a time")
	flag.Parse()
	ctrl.SetLogger(zap.New())
	if err := run(*metrics, *namespace, *template, *name, *concurrency); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(metrics, namespace, template, name string, concurrency int) error {
	text, err := os.ReadFile(template)
	if err != nil {
		return err
	}
	reconciler := &reconciler{scheme: runtime.NewScheme(), templateName: name}
	if err := json.Unmarshal(text, &reconciler.template); err != nil {
		return err
	}
	reconciler.template.OwnerReferences = nil
	// DeepDerivative passes over pointers, lists and texts that are not set, not over numbers.
	container := &reconciler.template.Spec.Template.Spec.Containers[0]
	for _, probe := range []*corev1.Probe{
		container.StartupProbe, container.LivenessProbe, container.ReadinessProbe,
	} {
		probe.SuccessThreshold = 1
	}
	group := schema.GroupVersion{Group: "seedbed.dev", Version: "v1alpha1"}
	if err := clientgoscheme.AddToScheme(reconciler.scheme); err != nil {
		return err
	}
	reconciler.scheme.AddKnownTypes(group, &Pool{}, &PoolList{})
	metav1.AddToGroupVersion(reconciler.scheme, group)
	connection, err := config.GetConfig()
	if err != nil {
		return err
	}
	connection.QPS = -1
	ours, err := labels.NewRequirement(poolLabel, "exists", nil)
	if err != nil {
		return err
	}
	manager, err := ctrl.NewManager(connection, ctrl.Options{
		Scheme:  reconciler.scheme,
		Metrics: server.Options{BindAddress: metrics},
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject: map[client.Object]cache.ByObject{
				&appsv1.Deployment{}: {Label: labels.NewSelector().Add(*ours)},
			},
		},
		LeaderElection:                true,
		LeaderElectionID:              "peer",
		LeaderElectionNamespace:       namespace,
		LeaderElectionReleaseOnCancel: true,
	})
	if err != nil {
		return err
	}
	reconciler.Client = manager.GetClient()
	err = ctrl.NewControllerManagedBy(manager).
		For(&Pool{}).
		Owns(&appsv1.Deployment{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrency}).
		Complete(reconciler)
	if err != nil {
		return err
	}
	return manager.Start(ctrl.SetupSignalHandler())
}
