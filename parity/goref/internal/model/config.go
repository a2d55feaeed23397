// Package model loads a Llama-style decoder from a GGUF file and computes its logits, one token at a time.
package model

import (
	"fmt"
	"strings"

	"conform/goref/internal/gguf"
)

// The architectures that goref runs; they differ in activation, RoPE pairing and output matrix.
const (
	archLlama  = "llama"
	archBitNet = "bitnet-b1.58"
)

// The version of ggml's block layouts that goref decodes.
const (
	versionKey   = "general.quantization_version"
	blockVersion = 2
)

// With fewer columns than this, the int32 sums of int8 products cannot overflow.
const maxColumns = 1 << 24

// Config holds the dimensions and constants that the metadata gives.
type Config struct {
	Arch     string
	Layers   int
	Hidden   int
	Heads    int
	KVHeads  int
	HeadDim  int
	FFN      int
	Vocab    int
	Context  int
	RopeDim  int
	RopeBase float32
	Scaling  Scaling
	Eps      float32
}

// QueryWidth is the width of the concatenated query heads.
func (c Config) QueryWidth() int { return c.Heads * c.HeadDim }

// KVWidth is the width of the concatenated key (or value) heads.
func (c Config) KVWidth() int { return c.KVHeads * c.HeadDim }

func readConfig(file *gguf.File) (Config, error) {
	arch, err := file.Metadata.Text("general.architecture")
	if err != nil {
		return Config{}, err
	}
	if arch != archLlama && arch != archBitNet {
		return Config{}, fmt.Errorf("architecture %q is not supported, expected %s or %s", arch, archLlama, archBitNet)
	}
	c := Config{Arch: arch}
	if err := c.readKeys(file.Metadata); err != nil {
		return Config{}, err
	}
	if err := checkKeys(arch, file.Metadata); err != nil {
		return Config{}, err
	}
	if err := c.readScaling(file.Metadata); err != nil {
		return Config{}, err
	}
	if err := c.deriveHeadDim(file); err != nil {
		return Config{}, err
	}
	return c, c.check()
}

func (c *Config) readKeys(metadata gguf.Metadata) error {
	for name, target := range map[string]*int{
		"block_count":             &c.Layers,
		"context_length":          &c.Context,
		"embedding_length":        &c.Hidden,
		"feed_forward_length":     &c.FFN,
		"attention.head_count":    &c.Heads,
		"attention.head_count_kv": &c.KVHeads,
		"rope.dimension_count":    &c.RopeDim,
		"vocab_size":              &c.Vocab,
	} {
		key := c.Arch + "." + name
		count, err := metadata.Count(key)
		if err != nil {
			return err
		}
		if count == 0 {
			return fmt.Errorf("key %s = 0, expected at least 1", key)
		}
		*target = count
	}
	var err error
	if c.RopeBase, err = metadata.Float(c.Arch + ".rope.freq_base"); err != nil {
		return err
	}
	c.Eps, err = metadata.Float(c.Arch + ".attention.layer_norm_rms_epsilon")
	return err
}

// Any other key of the architecture may change what the model computes, so it is refused.
var knownKeys = map[string]bool{
	"block_count": true, "context_length": true, "embedding_length": true, "feed_forward_length": true,
	"attention.head_count": true, "attention.head_count_kv": true, "attention.layer_norm_rms_epsilon": true,
	"attention.key_length": true, "attention.value_length": true,
	"rope.dimension_count": true, "rope.freq_base": true, "vocab_size": true,
	"rope.scaling.type": true, "rope.scaling.factor": true, "rope.scaling.attn_factor": true,
	"rope.scaling.original_context_length": true, "rope.scaling.yarn_beta_fast": true, "rope.scaling.yarn_beta_slow": true,
}

func checkKeys(arch string, metadata gguf.Metadata) error {
	for key := range metadata {
		name, ours := strings.CutPrefix(key, arch+".")
		if ours && !knownKeys[name] {
			return fmt.Errorf("key %s is not supported: goref does not know what it changes", key)
		}
	}
	if version, said := metadata[versionKey]; said && version != uint32(blockVersion) {
		return fmt.Errorf("key %s = %v, expected %d: blocks of another version have another layout", versionKey, version, blockVersion)
	}
	return nil
}

// deriveHeadDim takes the head dimension from the query projection, because it need not be hidden / heads.
func (c *Config) deriveHeadDim(file *gguf.File) error {
	const name = "blk.0.attn_q.weight"
	query, found := file.Find(name)
	if !found {
		return fmt.Errorf("tensor %s is missing", name)
	}
	if query.Rows()%c.Heads != 0 {
		return fmt.Errorf("tensor %s has %d rows, which are not %d heads", name, query.Rows(), c.Heads)
	}
	c.HeadDim = query.Rows() / c.Heads
	for _, suffix := range []string{".attention.key_length", ".attention.value_length"} {
		key := c.Arch + suffix
		if !file.Metadata.Has(key) {
			continue
		}
		if length, err := file.Metadata.Count(key); err != nil || length != c.HeadDim {
			return fmt.Errorf("key %s = %v, but %s has heads of %d", key, file.Metadata[key], name, c.HeadDim)
		}
	}
	return nil
}

func (c *Config) check() error {
	if c.Heads%c.KVHeads != 0 {
		return fmt.Errorf("%d heads cannot share %d kv heads evenly", c.Heads, c.KVHeads)
	}
	if c.Hidden >= maxColumns || c.FFN >= maxColumns || c.QueryWidth() >= maxColumns {
		return fmt.Errorf("rows of %d columns or more are not supported", maxColumns)
	}
	if c.RopeDim%2 != 0 || c.RopeDim > c.HeadDim {
		return fmt.Errorf("rope dimension %d, expected an even number up to the head dimension %d", c.RopeDim, c.HeadDim)
	}
	if c.RopeBase <= 1 {
		return fmt.Errorf("rope base %v, expected a number above 1", c.RopeBase)
	}
	if c.Eps <= 0 || c.Eps >= 1 {
		return fmt.Errorf("rms epsilon %v, expected a number between 0 and 1", c.Eps)
	}
	return nil
}
