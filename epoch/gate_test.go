package epoch

import (
	"fmt"
	"strings"
	"testing"

	"ftvm/vmm"
)

func printed(seq uint64, text string) vmm.Output {
	return vmm.Output{Kind: vmm.OutputConsole, Seq: seq, Data: []byte(text)}
}

func request(device uint32, seq uint64) vmm.Output {
	return vmm.Output{Kind: vmm.OutputDisk, Device: device, Seq: seq, Op: vmm.DiskWrite}
}

func frame(seq uint64) vmm.Output { return vmm.Output{Kind: vmm.OutputFrame, Seq: seq} }

func list(outs []vmm.Output) string {
	var s []string
	for _, o := range outs {
		switch o.Kind {
		case vmm.OutputConsole:
			s = append(s, fmt.Sprintf("%d:%s", o.Seq, o.Data))
		case vmm.OutputFrame:
			s = append(s, fmt.Sprintf("frame%d", o.Seq))
		default:
			s = append(s, fmt.Sprintf("disk%d.%d", o.Device, o.Seq))
		}
	}
	return strings.Join(s, " ")
}

func want(t *testing.T, what string, got []vmm.Output, want string) {
	t.Helper()
	if list(got) != want {
		t.Errorf("%s: got %q, want %q", what, list(got), want)
	}
}

func TestGateHoldsUntilCommit(t *testing.T) {
	var g Gate
	g.Produce(3, []vmm.Output{printed(0, "ab"), request(0, 0)})
	g.Produce(3, []vmm.Output{printed(2, "c")})
	g.Produce(4, []vmm.Output{request(1, 0)})
	want(t, "nothing is committed", g.Commit(3, nil), "")
	if !g.Holding(4) || g.Holding(5) {
		t.Error("the newest output that is held is of epoch 4")
	}
	want(t, "epoch 3", g.Commit(4, nil), "0:ab disk0.0 2:c")
	want(t, "epoch 3 again", g.Commit(4, nil), "")
	want(t, "all", g.Commit(1<<63, nil), "disk1.0")
	if g.Holding(0) {
		t.Error("nothing is held any more")
	}
}

func TestGateDropsWhatHasLeft(t *testing.T) {
	var g Gate
	g.Produce(0, []vmm.Output{printed(0, "abc"), request(0, 0), printed(3, "def")})
	g.HasLeft(Left{Console: 4})
	g.HasLeft(Left{Console: 2}) // never back
	if g.Left() != (Left{Console: 4}) {
		t.Errorf("%+v have left, want 4 bytes", g.Left())
	}
	g.Produce(1, []vmm.Output{printed(6, "g")})
	want(t, "the rest", g.Commit(2, nil), "disk0.0 4:ef 6:g")
	// Known to have left before it is produced here.
	g.HasLeft(Left{Console: 9})
	g.Produce(2, []vmm.Output{printed(7, "hijk")})
	want(t, "ahead", g.Commit(3, nil), "9:jk")
}

func TestGateDropsFramesThatHaveLeft(t *testing.T) {
	var g Gate
	g.Produce(0, []vmm.Output{frame(0), printed(0, "a"), frame(1), frame(2)})
	g.HasLeft(Left{Frames: 2})
	want(t, "the rest", g.Commit(1, nil), "0:a frame2")
	g.HasLeft(Left{Frames: 4})
	g.Produce(1, []vmm.Output{frame(3), frame(4)})
	want(t, "ahead", g.Commit(2, nil), "frame4")
}

func TestGateTakes(t *testing.T) {
	var g Gate
	g.Produce(0, []vmm.Output{printed(0, "a"), request(0, 0), printed(1, "b"), request(0, 1)})
	want(t, "requests", g.Take(nil, func(o *vmm.Output) bool { return o.Kind == vmm.OutputDisk }), "disk0.0 disk0.1")
	want(t, "the console waits", g.Commit(1, nil), "0:a 1:b")
}

// TestGateForgetsWhatIsComplete: on a backup a request to a shared disk is held; the primary has done it.
func TestGateForgetsWhatIsComplete(t *testing.T) {
	var g Gate
	g.Produce(0, []vmm.Output{request(0, 0), request(0, 1), printed(0, "a")})
	g.Complete(0, 0)
	want(t, "outstanding", g.Outstanding(), "disk0.1")
	want(t, "held", g.Commit(1, nil), "disk0.1 0:a")
}

func TestGateRemembersOutstandingRequests(t *testing.T) {
	var g Gate
	g.Produce(0, []vmm.Output{request(0, 0), request(1, 0), request(0, 1)})
	g.Commit(1, nil)
	g.Complete(0, 0)
	g.Complete(0, 7) // of nobody
	want(t, "outstanding", g.Outstanding(), "disk1.0 disk0.1")
	g.Complete(0, 1)
	g.Complete(1, 0)
	want(t, "all complete", g.Outstanding(), "")
}
