package sample

// generator is xorshift64* (Vigna, 2016).
type generator struct{ state uint64 }

func newGenerator(seed int64) generator {
	state := uint64(seed) ^ 0x9e3779b97f4a7c15
	if state == 0 {
		state = 1
	}
	return generator{state}
}

// uniform is a float32 in [0, 1], from the 53 high bits of one output.
func (g *generator) uniform() float32 {
	g.state ^= g.state >> 12
	g.state ^= g.state << 25
	g.state ^= g.state >> 27
	return float32(float64(g.state*2685821657736338717>>11) * 0x1p-53)
}
