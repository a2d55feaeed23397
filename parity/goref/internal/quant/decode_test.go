package quant

import (
	"encoding/binary"
	"math"
	"testing"

	"conform/goref/internal/gguf"
)

func TestHalfCoversEveryClassOfNumber(t *testing.T) {
	for bits, expected := range map[uint16]float32{
		0x0000: 0, 0x3c00: 1, 0xc000: -2, 0x7bff: 65504, 0x0001: 0x1p-24, 0x83ff: -0x3ffp-24, 0x0400: 0x1p-14,
		0x3555: 0.33325195, 0x7c00: float32(math.Inf(1)), 0xfc00: float32(math.Inf(-1)),
	} {
		if got := half(binary.LittleEndian.AppendUint16(nil, bits)); got != expected {
			t.Errorf("%04x: %v, expected %v", bits, got, expected)
		}
	}
	if got := half([]byte{0, 0x80}); math.Float32bits(got) != 1<<31 {
		t.Errorf("minus zero became %v", got)
	}
	if got := half([]byte{1, 0x7e}); got == got {
		t.Errorf("NaN became %v", got)
	}
}

func decode(t *testing.T, kind gguf.Type, count uint64, raw []byte) []float32 {
	t.Helper()
	values, err := Decode(gguf.Tensor{Name: "w", Dims: []uint64{count}, Type: kind, Count: count, Bytes: uint64(len(raw))}, raw)
	if err != nil {
		t.Fatal(err)
	}
	return values
}

func expect(t *testing.T, values []float32, expected map[int]float32) {
	t.Helper()
	for i, v := range expected {
		if values[i] != v {
			t.Errorf("value %d is %v, expected %v", i, values[i], v)
		}
	}
}

// one is the f16 1.0.
var one = []byte{0x00, 0x3c}

func block(size int, set map[int]byte) []byte {
	raw := make([]byte, size)
	for at, b := range set {
		raw[at] = b
	}
	return raw
}

func TestBlocksDecodeToTheValuesOfTheirDrawing(t *testing.T) {
	expect(t, decode(t, gguf.BF16, 2, []byte{0x80, 0x3f, 0x20, 0xc0}), map[int]float32{0: 1, 1: -2.5})
	expect(t, decode(t, gguf.Q8_0, 32, append([]byte{0, 0x40}, block(32, map[int]byte{0: 3, 31: 0xff})...)),
		map[int]float32{0: 6, 1: 0, 31: -2})
	expect(t, decode(t, gguf.IQ4NL, 32, append(one, block(16, map[int]byte{0: 0xf0, 15: 0x08})...)),
		map[int]float32{0: -127, 16: 113, 15: 1, 31: -127})
	// l = 33 of block 7: low nibble 1 in the high half of byte 3, high bits 2 at bit 14.
	expect(t, decode(t, gguf.IQ4XS, 256, block(136, map[int]byte{1: 0x3c, 3: 0x80, 7: 0x10, 120: 0x0f})),
		map[int]float32{0: 32 * 127, 224: 113, 225: -127})
	// Trits +1 and -1 are the codes 2 and 0; byte 0 of TQ2_0 holds the values 0, 32, 64, 96 from the low bits up.
	expect(t, decode(t, gguf.TQ2_0, 256, block(66, map[int]byte{0: 0b01_00_10_01, 65: 0x3c})),
		map[int]float32{0: 0, 32: 1, 64: -1, 96: 0, 1: -1})
	// 2·81 + 1·27 + 0·9 + 2·3 + 1 = 196, times 256/243 rounded up is 207: the trits +1, 0, -1, +1, 0.
	expect(t, decode(t, gguf.TQ1_0, 256, block(54, map[int]byte{0: 207, 53: 0x3c})),
		map[int]float32{0: 1, 32: 0, 64: -1, 96: 1, 128: 0, 1: -1})
}

func TestI2SRunsAcrossRowsAndHasItsScaleBehindTheCodes(t *testing.T) {
	raw := block(64+32, map[int]byte{0: 0b00_01_10_01, 31: 0b10_00_00_00, 32: 0b10_10_10_10})
	binary.LittleEndian.PutUint32(raw[64:], math.Float32bits(0.5))
	expect(t, decode(t, gguf.I2S, 256, raw),
		map[int]float32{0: -0.5, 32: 0, 64: 0.5, 96: 0, 31: 0.5, 63: -0.5, 128: 0.5, 224: 0.5, 129: -0.5})
}

func TestI2SRefusesCodeThreeAndAnInfiniteScale(t *testing.T) {
	tensor := gguf.Tensor{Name: "w", Dims: []uint64{128}, Type: gguf.I2S, Count: 128, Bytes: 64}
	raw := block(64, map[int]byte{35: 0x3f, 7: 0b11})
	if _, err := Decode(tensor, raw); err == nil {
		t.Error("code 3 was accepted")
	}
	if counts := CountCodes(tensor, raw); counts != [4]uint64{127, 0, 0, 1} {
		t.Errorf("counts = %v", counts)
	}
	if _, err := Decode(tensor, block(64, map[int]byte{34: 0x80, 35: 0x7f})); err == nil {
		t.Error("an infinite scale was accepted")
	}
}

func TestAPartialI2SGroupIgnoresTheCodesBehindItsEnd(t *testing.T) {
	raw := block(48, map[int]byte{0: 0b10_10_11_11, 35: 0x3f, 34: 0x80})
	values := decode(t, gguf.I2S, 64, raw)
	expect(t, values, map[int]float32{0: 1, 32: 1, 1: -1})
	if len(values) != 64 {
		t.Errorf("%d values", len(values))
	}
}

func TestFiniteNamesTheFirstOffender(t *testing.T) {
	if err := Finite("w", []float32{1, -math.MaxFloat32}); err != nil {
		t.Error(err)
	}
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		if err := Finite("w", []float32{1, float32(bad)}); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

func TestWrongSizesAreRefused(t *testing.T) {
	for kind := range decoders {
		tensor := gguf.Tensor{Name: "w", Dims: []uint64{256}, Type: kind, Count: 256, Bytes: 10}
		if _, err := Decode(tensor, make([]byte, 9)); err == nil {
			t.Errorf("%v: 9 bytes were accepted", kind)
		}
	}
}
