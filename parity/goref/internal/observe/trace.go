package observe

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"time"

	"conform/goref/internal/model"
)

// Trace writes lines about one sequence; it is an Observer of the steps that Settings select.
type Trace struct {
	settings Settings
	model    *model.Model
	out      *bufio.Writer
}

// NewTrace returns a trace to out; Flush completes it.
func NewTrace(settings Settings, m *model.Model, out io.Writer) *Trace {
	return &Trace{settings, m, bufio.NewWriterSize(out, 1<<16)}
}

// Flush writes what is buffered.
func (t *Trace) Flush() error { return t.out.Flush() }

// Meta describes the attention, if asked for.
func (t *Trace) Meta() {
	if m := t.model; t.settings.AttnMeta {
		fmt.Fprintf(t.out, "debug attn meta: heads=%d kv_heads=%d rope_dim=%d rope_freq_base=%g rope_scale=%g rope_type=%q"+
			" head_dim=%d layers=%d\n",
			m.Heads, m.KVHeads, m.RopeDim, m.RopeBase, m.Scaling.Factor, m.Scaling.Kind, m.HeadDim, len(m.Layers))
	}
}

// Begin announces a decode step and returns its observer, nil when the step is not traced.
func (t *Trace) Begin(step, position, token int) model.Observer {
	if step < 0 || step != t.settings.TraceStep {
		return nil
	}
	m := t.model
	fmt.Fprintf(t.out, "drift_trace step=%d pos=%d token=%d layers=%d\n", step, position, token, len(m.Layers))
	return t
}

// Vector writes the first values of a vector of a traced layer.
func (t *Trace) Vector(layer int, name string, values []float32) {
	if t.settings.TraceLayer >= 0 && layer != t.settings.TraceLayer {
		return
	}
	if m := t.model; name == "Qcur" {
		fmt.Fprintf(t.out, "drift_trace qkv_dims layer=%d q_heads=%d kv_heads=%d q_len=%d k_len=%d v_len=%d\n",
			layer, m.Heads, m.KVHeads, m.QueryWidth(), m.KVWidth(), m.KVWidth())
	}
	if n := min(t.settings.TraceValues, len(values)); n > 0 {
		fmt.Fprintf(t.out, "drift_trace values layer=%d name=%s values=", layer, name)
		t.values(values[:n])
	}
}

// Hidden sees the final hidden state of a position: step is the decode step, or negative within the prompt.
func (t *Trace) Hidden(step, position int, hidden []float32) error {
	if step >= 0 && step == t.settings.TraceStep && t.settings.TraceValues > 0 {
		t.out.WriteString("drift_trace output_norm_values=")
		t.values(hidden)
	}
	if position != t.settings.LogitsAt {
		return nil
	}
	for _, token := range t.settings.LogitsOf {
		if token >= t.model.Vocab {
			return fmt.Errorf("BITNET_DEBUG_TOKENS: token %d is outside the vocabulary of %d", token, t.model.Vocab)
		}
		logit := t.model.SequentialLogit(hidden, token)
		fmt.Fprintf(t.out, "debug logits.stage.output_norm token=%d logit=%g\n", token, logit)
	}
	return nil
}

// Chosen reports the greedy token of a traced step.
func (t *Trace) Chosen(step, token int, logit float32) {
	if step == t.settings.TraceStep {
		fmt.Fprintf(t.out, "drift_trace logits step=%d argmax_token=%d argmax_logit=%.9g\n", step, token, logit)
	}
}

// Nine significant digits identify every float32 exactly.
func (t *Trace) values(values []float32) {
	var text []byte
	for i, v := range values {
		if i > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendFloat(text, float64(v), 'g', 9, 64)
	}
	t.out.Write(append(text, '\n'))
}

// Timed reports how long a decode step took, if asked for.
func (t *Trace) Timed(step int, took time.Duration) {
	if t.settings.ProfileStep {
		fmt.Fprintf(t.out, "profile step=%d ms=%.3f\n", step, float64(took.Microseconds())/1000)
	}
}

// Loaded reports how long loading took, if asked for.
func (t *Trace) Loaded(took time.Duration) {
	if t.settings.ProfileLoad {
		fmt.Fprintf(t.out, "profile load ms=%.3f\n", float64(took.Microseconds())/1000)
	}
}
