package model

import (
	"fmt"

	"conform/goref/internal/gguf"
	"conform/goref/internal/quant"
)

// Layer holds the weights of one block; the sub-norms are nil where the model has none.
type Layer struct {
	AttnNorm, AttnSubNorm, FFNNorm, FFNSubNorm []float32
	Query, Key, Value, Output, Gate, Up, Down  Matrix
}

// Model is a loaded model, never written to after Load.
type Model struct {
	Config
	Rope       Rope
	Embedding  *Float
	Layers     []Layer
	OutputNorm []float32
	Output     Matrix
}

// Load reads every tensor. With floatTernary, I2_S matrices multiply unquantised activations.
// It fails when a tensor is missing, has another shape, is not part of the model or holds a value that is not finite.
func Load(file *gguf.File, floatTernary bool) (*Model, error) {
	config, err := readConfig(file)
	if err != nil {
		return nil, err
	}
	l := &loader{file: file, floatTernary: floatTernary, used: map[string]bool{}}
	m := &Model{Config: config}
	if err := m.load(l); err != nil {
		return nil, err
	}
	if len(m.Layers) != config.Layers {
		return nil, fmt.Errorf("%d layers loaded, expected %d", len(m.Layers), config.Layers)
	}
	return m, l.nothingLeft()
}

func (m *Model) load(l *loader) error {
	err := m.loadRope(l)
	if err != nil {
		return err
	}
	if m.Embedding, err = l.floats("token_embd.weight", m.Hidden, m.Vocab); err != nil {
		return err
	}
	for i := range m.Config.Layers {
		layer, err := m.loadLayer(l, fmt.Sprintf("blk.%d.", i))
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, layer)
	}
	if m.OutputNorm, err = l.vector("output_norm.weight", m.Hidden); err != nil {
		return err
	}
	m.Output = m.Embedding
	if m.Arch == archLlama && l.has("output.weight") {
		m.Output, err = l.matrix("output.weight", m.Hidden, m.Vocab)
	}
	return err
}

func (m *Model) loadLayer(l *loader, prefix string) (Layer, error) {
	var layer Layer
	var err error
	for _, v := range []struct {
		name   string
		width  int
		target *[]float32
	}{
		{"attn_norm", m.Hidden, &layer.AttnNorm},
		{"ffn_norm", m.Hidden, &layer.FFNNorm},
		{"attn_sub_norm", m.QueryWidth(), &layer.AttnSubNorm},
		{"ffn_sub_norm", m.FFN, &layer.FFNSubNorm},
	} {
		name := prefix + v.name + ".weight"
		if (v.target == &layer.AttnSubNorm || v.target == &layer.FFNSubNorm) && !l.wantsSubNorm(v.name, name) {
			continue
		}
		if *v.target, err = l.vector(name, v.width); err != nil {
			return layer, err
		}
	}
	for _, w := range []struct {
		name       string
		cols, rows int
		target     *Matrix
	}{
		{"attn_q", m.Hidden, m.QueryWidth(), &layer.Query},
		{"attn_k", m.Hidden, m.KVWidth(), &layer.Key},
		{"attn_v", m.Hidden, m.KVWidth(), &layer.Value},
		{"attn_output", m.QueryWidth(), m.Hidden, &layer.Output},
		{"ffn_gate", m.Hidden, m.FFN, &layer.Gate},
		{"ffn_up", m.Hidden, m.FFN, &layer.Up},
		{"ffn_down", m.FFN, m.Hidden, &layer.Down},
	} {
		if *w.target, err = l.matrix(prefix+w.name+".weight", w.cols, w.rows); err != nil {
			return layer, err
		}
	}
	return layer, nil
}

// loader hands out tensors of the expected shape and remembers which were used.
type loader struct {
	file         *gguf.File
	floatTernary bool
	used         map[string]bool
	packed       []byte // bytes of the tensor being decoded; decoders keep none of them
}

func (l *loader) has(name string) bool {
	_, found := l.file.Find(name)
	return found
}

// wantsSubNorm reports whether a layer must have the sub-norm: all layers have it or none does, as the first one says.
func (l *loader) wantsSubNorm(kind, name string) bool {
	return l.has(name) || l.has("blk.0."+kind+".weight")
}

func (l *loader) find(name string, dims ...int) (gguf.Tensor, []byte, error) {
	t, found := l.file.Find(name)
	if !found {
		return t, nil, fmt.Errorf("tensor %s is missing", name)
	}
	matches := len(t.Dims) == len(dims)
	for i := 0; matches && i < len(dims); i++ {
		matches = t.Dims[i] == uint64(dims[i])
	}
	if !matches {
		return t, nil, fmt.Errorf("tensor %s has the shape %v, expected %v", name, t.Dims, dims)
	}
	l.used[name] = true
	var err error
	l.packed, err = l.file.Read(t, l.packed)
	return t, l.packed, err
}

func (l *loader) values(name string, dims ...int) ([]float32, error) {
	t, raw, err := l.find(name, dims...)
	if err != nil {
		return nil, err
	}
	values, err := quant.Decode(t, raw)
	if err != nil {
		return nil, err
	}
	return values, quant.Finite(name, values)
}

func (l *loader) vector(name string, width int) ([]float32, error) { return l.values(name, width) }

func (l *loader) floats(name string, cols, rows int) (*Float, error) {
	values, err := l.values(name, cols, rows)
	return &Float{rows, cols, values}, err
}

func (l *loader) matrix(name string, cols, rows int) (Matrix, error) {
	if t, found := l.file.Find(name); !found || t.Type != gguf.I2S || l.floatTernary {
		return l.floats(name, cols, rows)
	}
	t, raw, err := l.find(name, cols, rows)
	if err != nil {
		return nil, err
	}
	ternary, err := quant.DecodeI2S(t, raw)
	return &Int8{rows, cols, ternary}, err
}

func (l *loader) nothingLeft() error {
	for _, t := range l.file.Tensors {
		if !l.used[t.Name] {
			return fmt.Errorf("tensor %s is not part of the model; ignoring it would change what is computed", t.Name)
		}
	}
	return nil
}
