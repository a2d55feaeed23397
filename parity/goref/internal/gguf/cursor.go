package gguf

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"unicode/utf8"
)

// Far more than any real header needs; a hostile one must not exhaust memory.
const (
	maxHeader = 512 << 20
	maxString = 16 << 20
	maxName   = 65535
)

// cursor reads little-endian values and refuses to allocate for more bytes than the file still has.
type cursor struct {
	source *bufio.Reader
	pos    uint64
	limit  uint64
}

func newCursor(source io.Reader, size uint64) *cursor {
	return &cursor{source: bufio.NewReaderSize(source, 1<<16), limit: min(size, maxHeader)}
}

func (c *cursor) remaining() uint64 { return c.limit - c.pos }

// need fails unless count items of at least size bytes each can still follow.
func (c *cursor) need(count, size uint64, what string) error {
	if count > c.remaining()/size {
		return fmt.Errorf("%s at byte %d needs %d x %d bytes, but only %d are left", what, c.pos, count, size, c.remaining())
	}
	return nil
}

func (c *cursor) bytes(n uint64, what string) ([]byte, error) {
	if err := c.need(n, 1, what); err != nil {
		return nil, err
	}
	out := make([]byte, n)
	if _, err := io.ReadFull(c.source, out); err != nil {
		return nil, fmt.Errorf("%s at byte %d cannot be read: %w", what, c.pos, err)
	}
	c.pos += n
	return out, nil
}

func (c *cursor) u32(what string) (uint32, error) {
	raw, err := c.bytes(4, what)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(raw), nil
}

func (c *cursor) u64(what string) (uint64, error) {
	raw, err := c.bytes(8, what)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(raw), nil
}

// text reads a string of at most longest bytes; it must be UTF-8.
func (c *cursor) text(longest uint64, what string) (string, error) {
	n, err := c.u64("length of " + what)
	if err != nil {
		return "", err
	}
	if n > longest {
		return "", fmt.Errorf("%s at byte %d is %d bytes long, at most %d are accepted", what, c.pos, n, longest)
	}
	raw, err := c.bytes(n, what)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(raw) {
		return "", fmt.Errorf("%s %q is not valid UTF-8", what, raw)
	}
	return string(raw), nil
}

func float32At(raw []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(raw)) }
func float64At(raw []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(raw)) }
