package model

import (
	"fmt"
	"math"

	"conform/goref/internal/gguf"
)

// The kinds of RoPE scaling that goref runs, as GGUF names them; what Llama 3 does is in the tensor ropeFactors instead.
const (
	scalingNone   = ""
	scalingLinear = "linear"
	scalingYaRN   = "yarn"
	ropeFactors   = "rope_freqs.weight"
)

// The turns in the original context between which YaRN scales more and more: no file may ask for others, because
// runtimes differ in whether they obey it.
const (
	yarnBetaFast = 32
	yarnBetaSlow = 1
)

// Scaling is what the metadata say of RoPE scaling. Factor divides frequencies, Magnitude multiplies sine and cosine.
type Scaling struct {
	Kind            string
	Factor          float32
	Magnitude       float32
	OriginalContext int
}

// Rope holds the radians that each rotated pair turns by from one position to the next, and the length after a turn.
type Rope struct {
	Frequencies []float64
	Magnitude   float64
}

func (c *Config) readScaling(metadata gguf.Metadata) error {
	keys := c.Arch + ".rope.scaling."
	c.Scaling = Scaling{Factor: 1, Magnitude: 1}
	s := &c.Scaling
	if metadata.Has(keys + "type") {
		kind, err := metadata.Text(keys + "type")
		if err != nil {
			return err
		}
		if kind != "none" {
			s.Kind = kind
		}
	}
	switch s.Kind {
	case scalingNone, scalingLinear, scalingYaRN:
	default:
		return fmt.Errorf("key %stype = %q: this rope scaling is not supported, expected linear or yarn", keys, s.Kind)
	}
	if err := s.readNumbers(keys, metadata); err != nil {
		return err
	}
	if s.Kind == scalingNone && s.Factor != 1 {
		return fmt.Errorf("key %sfactor = %v: rope scaling is not supported without a type", keys, s.Factor)
	}
	return s.readYaRN(keys, metadata)
}

func (s *Scaling) readNumbers(keys string, metadata gguf.Metadata) error {
	for key, target := range map[string]*float32{keys + "factor": &s.Factor, keys + "attn_factor": &s.Magnitude} {
		if !metadata.Has(key) && (target == &s.Magnitude || s.Kind == scalingNone) {
			continue
		}
		number, err := metadata.Float(key)
		if err != nil {
			return err
		}
		if number <= 0 {
			return fmt.Errorf("key %s = %v, expected a number above 0", key, number)
		}
		*target = number
	}
	return nil
}

func (s *Scaling) readYaRN(keys string, metadata gguf.Metadata) error {
	const context = "original_context_length"
	betas := map[string]float32{"yarn_beta_fast": yarnBetaFast, "yarn_beta_slow": yarnBetaSlow}
	if s.Kind != scalingYaRN {
		for _, name := range []string{context, "yarn_beta_fast", "yarn_beta_slow"} {
			if metadata.Has(keys + name) {
				return fmt.Errorf("key %s%s is not supported without yarn scaling", keys, name)
			}
		}
		return nil
	}
	for name, usual := range betas {
		if found, err := metadata.Float(keys + name); metadata.Has(keys+name) && (err != nil || found != usual) {
			return fmt.Errorf("key %s%s = %v is not supported, expected %v", keys, name, metadata[keys+name], usual)
		}
	}
	var err error
	s.OriginalContext, err = metadata.Count(keys + context)
	return err
}

// rope computes the rotations; factors divide the frequencies once more, nil leaves them.
func (c Config) rope(factors []float32) (Rope, error) {
	r := Rope{make([]float64, c.RopeDim/2), float64(c.Scaling.Magnitude)}
	first, last := c.yarnRange()
	if first > last {
		return r, fmt.Errorf("yarn scaling from an original context of %d is not supported", c.Scaling.OriginalContext)
	}
	factor := float64(c.Scaling.Factor)
	for i := range r.Frequencies {
		frequency := math.Pow(float64(c.RopeBase), -float64(2*i)/float64(c.RopeDim))
		var kept float64
		if c.Scaling.Kind == scalingYaRN {
			kept = 1 - min(max((float64(i)-first)/max(last-first, 0.001), 0), 1)
		}
		frequency /= factor / ((1 - kept) + kept*factor)
		if factors != nil {
			frequency /= float64(factors[i])
		}
		r.Frequencies[i] = frequency
	}
	if c.Scaling.Kind == scalingYaRN && factor > 1 {
		r.Magnitude *= 0.1*math.Log(factor) + 1
	}
	return r, nil
}

// yarnRange gives the pairs between which YaRN goes from keeping the frequency to dividing it by the factor.
func (c Config) yarnRange() (first, last float64) {
	if c.Scaling.Kind != scalingYaRN {
		return 0, 0
	}
	pair := func(turns float64) float64 {
		ratio := float64(c.Scaling.OriginalContext) / (turns * 2 * math.Pi)
		return float64(c.RopeDim) * math.Log(ratio) / (2 * math.Log(float64(c.RopeBase)))
	}
	return max(math.Floor(pair(yarnBetaFast)), 0), min(math.Ceil(pair(yarnBetaSlow)), float64(c.RopeDim-1))
}

func (m *Model) loadRope(l *loader) error {
	var factors []float32
	if m.Arch == archLlama && l.has(ropeFactors) {
		var err error
		if factors, err = l.vector(ropeFactors, m.RopeDim/2); err != nil {
			return err
		}
		for i, factor := range factors {
			if factor <= 0 {
				return fmt.Errorf("tensor %s[%d] = %v, expected a number above 0", ropeFactors, i, factor)
			}
		}
	}
	var err error
	m.Rope, err = m.rope(factors)
	return err
}

// rotation holds cos and sin of one position's angles, one per rotated pair.
type rotation struct {
	cos, sin []float32
	// stride is the distance between the two values of a pair: 1 for adjacent pairs, half the dimension for split halves.
	stride int
}

func (m *Model) rotation(position int) rotation {
	pairs := len(m.Rope.Frequencies)
	r := rotation{make([]float32, pairs), make([]float32, pairs), 1}
	if m.Arch == archBitNet {
		r.stride = pairs
	}
	for i, frequency := range m.Rope.Frequencies {
		angle := float64(position) * frequency
		r.cos[i], r.sin[i] = float32(math.Cos(angle)*m.Rope.Magnitude), float32(math.Sin(angle)*m.Rope.Magnitude)
	}
	return r
}

// apply rotates every head of x in place.
func (r rotation) apply(x []float32, headDim int) {
	for head := 0; head < len(x); head += headDim {
		for i := range r.cos {
			first := head + i
			if r.stride == 1 {
				first = head + 2*i
			}
			a, b := x[first], x[first+r.stride]
			x[first] = float32(a*r.cos[i]) - float32(b*r.sin[i])
			x[first+r.stride] = float32(a*r.sin[i]) + float32(b*r.cos[i])
		}
	}
}
