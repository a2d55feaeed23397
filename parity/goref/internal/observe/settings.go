// Package observe reads the BITNET_* environment and writes what it asks for to stderr.
package observe

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Settings say what is to be traced and forced. Unset numbers are -1.
type Settings struct {
	ForceTokens  []int
	FloatTernary bool // BITNET_I2S_F32
	TraceStep    int
	TraceLayer   int // -1: all
	TraceValues  int // values per vector; 0: none
	AttnMeta     bool
	LogitsAt     int // absolute position
	LogitsOf     []int
	ProfileLoad  bool
	ProfileStep  bool
}

// Read takes the BITNET_* variables of an environment of KEY=VALUE lines. A variable that goref does not implement is an
// error: whoever sets one believes that it has an effect.
func Read(environment []string) (Settings, error) {
	s := Settings{TraceStep: -1, TraceLayer: -1, LogitsAt: -1}
	var step0, stages bool
	readers := map[string]func(string) error{
		"FORCE_TOKENS":         tokens(&s.ForceTokens),
		"I2S_F32":              flag(&s.FloatTernary),
		"DRIFT_TRACE_STEP":     number(&s.TraceStep, 0),
		"DRIFT_TRACE_LAYER":    number(&s.TraceLayer, -1),
		"DRIFT_TRACE_VALUES_N": number(&s.TraceValues, 0),
		"DEBUG_ATTN_META":      flag(&s.AttnMeta),
		"DEBUG_STEP0":          flag(&step0),
		"DEBUG_STAGES":         flag(&stages),
		"DEBUG_POS":            number(&s.LogitsAt, 0),
		"DEBUG_TOKENS":         tokens(&s.LogitsOf),
		"PROFILE_LOAD":         flag(&s.ProfileLoad),
		"PROFILE_STEP":         flag(&s.ProfileStep),
	}
	for _, line := range environment {
		name, value, _ := strings.Cut(line, "=")
		short, ours := strings.CutPrefix(name, "BITNET_")
		if !ours {
			continue
		}
		read, known := readers[short]
		if !known {
			return s, fmt.Errorf("environment variable %s is not supported", name)
		}
		if err := read(value); err != nil {
			return s, fmt.Errorf("environment variable %s=%s: %w", name, value, err)
		}
	}
	if asked := step0 || stages || s.LogitsAt >= 0 || s.LogitsOf != nil; asked &&
		!(step0 && stages && s.LogitsAt >= 0 && s.LogitsOf != nil) {
		return s, fmt.Errorf("logits are traced only with all of BITNET_DEBUG_STEP0, _STAGES, _POS and _TOKENS")
	}
	return s, nil
}

func flag(target *bool) func(string) error {
	return func(value string) error {
		*target = value == "1"
		if value != "1" && value != "0" && value != "" {
			return fmt.Errorf("expected 1, or 0 for off")
		}
		return nil
	}
}

func number(target *int, least int) func(string) error {
	return func(value string) error {
		n, err := strconv.Atoi(value)
		if err != nil || n < least || n > math.MaxInt32 {
			return fmt.Errorf("expected a whole number from %d", least)
		}
		*target = n
		return nil
	}
}

func tokens(target *[]int) func(string) error {
	return func(value string) error {
		for _, item := range strings.Split(value, ",") {
			token, err := strconv.Atoi(item)
			if err != nil || token < 0 {
				return fmt.Errorf("expected token ids separated by commas")
			}
			*target = append(*target, token)
		}
		return nil
	}
}
