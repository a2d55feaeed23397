package quant

var powersOfThree = [5]byte{1, 3, 9, 27, 81}

// tq1 (54 bytes): 48 bytes with five base-3 digits, 4 bytes with four; f16 d at the end. A byte is ceil(n·256/243), so
// that the digit is the integer part of three times the fraction. Digits of 32, then 16, then 4 bytes are interleaved.
func tq1(block []byte, values []float32) {
	d := half(block[52:])
	at := 0
	for _, run := range [3]struct{ from, to, digits int }{{0, 32, 5}, {32, 48, 5}, {48, 52, 4}} {
		for digit := range run.digits {
			for _, b := range block[run.from:run.to] {
				trit := int(uint16(b*powersOfThree[digit])*3>>8) - 1
				values[at] = d * float32(trit)
				at++
			}
		}
	}
}

// tq2 (66 bytes): per 128 values 32 bytes, byte m holds value m + 32n in bits 2n…2n+1, code = trit + 1; f16 d at the end.
func tq2(block []byte, values []float32) {
	d := half(block[64:])
	for i := range values {
		code := block[i/128*32+i%32] >> (2 * (i % 128 / 32)) & 3
		values[i] = d * float32(int(code)-1)
	}
}
