package observe

import (
	"reflect"
	"testing"
)

func TestReadTakesWhatTheEnvironmentAsksFor(t *testing.T) {
	got, err := Read([]string{
		"PATH=/bin", "BITNET_FORCE_TOKENS=3,0,7", "BITNET_I2S_F32=1", "BITNET_DRIFT_TRACE_STEP=2",
		"BITNET_DRIFT_TRACE_LAYER=-1", "BITNET_DRIFT_TRACE_VALUES_N=5", "BITNET_DEBUG_ATTN_META=0",
		"BITNET_DEBUG_STEP0=1", "BITNET_DEBUG_STAGES=1", "BITNET_DEBUG_POS=4", "BITNET_DEBUG_TOKENS=1",
	})
	expected := Settings{
		ForceTokens: []int{3, 0, 7}, FloatTernary: true, TraceStep: 2, TraceLayer: -1, TraceValues: 5,
		LogitsAt: 4, LogitsOf: []int{1},
	}
	if err != nil || !reflect.DeepEqual(got, expected) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Read(nil); err != nil || got.TraceStep != -1 || got.LogitsAt != -1 {
		t.Errorf("nothing set: %+v, %v", got, err)
	}
}

func TestWhatCannotBeHonouredIsRefused(t *testing.T) {
	for _, line := range []string{
		"BITNET_PARITY_STRICT=1", "BITNET_DRIFT_TRACE_TOKEN=1", "BITNET_I2S_F32=yes", "BITNET_FORCE_TOKENS=1,,2",
		"BITNET_FORCE_TOKENS=-1", "BITNET_DRIFT_TRACE_STEP=-1", "BITNET_DRIFT_TRACE_STEP=x", "BITNET_DRIFT_TRACE_LAYER=-2",
		"BITNET_DEBUG_POS=3", "BITNET_DEBUG_STEP0=1", "BITNET_DRIFT_TRACE_STEP=99999999999",
	} {
		if _, err := Read([]string{line}); err == nil {
			t.Errorf("%s was accepted", line)
		}
	}
}
