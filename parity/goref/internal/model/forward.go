package model

import (
	"fmt"
	"math"
)

// Observer sees intermediate vectors; it must not keep or change them.
type Observer interface {
	Vector(layer int, name string, values []float32)
}

// Session is one sequence: the keys and values of every position so far.
type Session struct {
	model        *Model
	keys, values [][]float32 // per layer, one position after another
	position     int
}

// NewSession starts an empty sequence.
func (m *Model) NewSession() *Session {
	return &Session{model: m, keys: make([][]float32, len(m.Layers)), values: make([][]float32, len(m.Layers))}
}

// Position is the number of tokens seen.
func (s *Session) Position() int { return s.position }

// Step runs one token through all layers and returns the normalised final hidden state. observer may be nil.
func (s *Session) Step(token int, observer Observer) ([]float32, error) {
	m := s.model
	if token < 0 || token >= m.Vocab {
		return nil, fmt.Errorf("token %d is outside the vocabulary of %d", token, m.Vocab)
	}
	if s.position >= m.Context {
		return nil, fmt.Errorf("position %d exceeds the context of %d", s.position, m.Context)
	}
	x := append([]float32(nil), m.Embedding.Row(token)...)
	rotation := m.rotation(s.position)
	for i := range m.Layers {
		watch := watcher{observer, i}
		s.attention(i, x, rotation, watch)
		m.feedForward(i, x, watch)
	}
	s.position++
	return rmsNorm(x, m.OutputNorm, m.Eps), nil
}

// Logits multiplies a final hidden state with the output matrix.
func (m *Model) Logits(hidden []float32) ([]float32, error) {
	logits := make([]float32, m.Vocab)
	m.Output.Mul(logits, hidden)
	for token, v := range logits {
		if v-v != 0 {
			return nil, fmt.Errorf("the logit of token %d is %v", token, v)
		}
	}
	return logits, nil
}

// SequentialLogit is one logit, summed in float32 in order.
func (m *Model) SequentialLogit(hidden []float32, token int) float32 {
	var sum float32
	for i, w := range m.Output.Row(token) {
		sum += float32(w * hidden[i])
	}
	return sum
}

// watcher hands vectors of one layer to the observer, if there is one.
type watcher struct {
	observer Observer
	layer    int
}

func (w watcher) see(name string, values []float32) {
	if w.observer != nil {
		w.observer.Vector(w.layer, name, values)
	}
}

func (m *Model) feedForward(index int, x []float32, watch watcher) {
	layer := &m.Layers[index]
	normed := rmsNorm(x, layer.FFNNorm, m.Eps)
	gate, up := make([]float32, m.FFN), make([]float32, m.FFN)
	layer.Gate.Mul(gate, normed)
	layer.Up.Mul(up, normed)
	activate := silu
	if m.Arch == archBitNet {
		activate = squaredRelu
	}
	for i := range gate {
		gate[i] = activate(gate[i]) * up[i]
	}
	watch.see("ffn_act", gate)
	if layer.FFNSubNorm != nil {
		gate = rmsNorm(gate, layer.FFNSubNorm, m.Eps)
	}
	watch.see("ffn_sub_norm", gate)
	down := make([]float32, m.Hidden)
	layer.Down.Mul(down, gate)
	add(x, down)
	watch.see("x_post_ffn", x)
}

func silu(v float32) float32 { return v / (1 + float32(math.Exp(-float64(v)))) }

func squaredRelu(v float32) float32 {
	v = max(v, 0)
	return v * v
}

// rmsNorm sums the squares in float64, rounds the inverse root to float32 and multiplies in float32.
func rmsNorm(x, weight []float32, eps float32) []float32 {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	inverse := float32(1 / math.Sqrt(sum/float64(len(x))+float64(eps)))
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = float32(v*inverse) * weight[i]
	}
	return out
}

func add(x, y []float32) {
	for i, v := range y {
		x[i] += v
	}
}
