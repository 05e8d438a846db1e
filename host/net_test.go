package host

import "testing"

func TestParseNet(t *testing.T) {
	for in, want := range map[string]NetSpec{
		"tap=ft0":            {Tap: "ft0"},
		"tap=ft0,bridge=br0": {Tap: "ft0", Bridge: "br0"},
		"mac=52:00:00:12:34:5A,tap=ft0,bridge=br-1": {Tap: "ft0", Bridge: "br-1", MAC: MAC{0x52, 0, 0, 0x12, 0x34, 0x5a}},
		"tap=fifteen-letters":                       {Tap: "fifteen-letters"},
	} {
		if got, err := ParseNet(in); got != want || err != nil {
			t.Errorf("ParseNet(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"":                              `unknown ""`,
		"bridge=br0":                    "names no tap",
		"ft0":                           `unknown "ft0"`,
		"tap":                           `"" cannot be`,
		"tap=sixteen-letters-":          "cannot be the name",
		"tap=tap%d":                     "cannot be the name",
		"tap=a/b":                       "cannot be the name",
		"tap=..":                        "cannot be the name",
		"tap=a b":                       "cannot be the name",
		"tap=a,tap=b":                   "tap is given twice",
		"tap=a,bridge=":                 "cannot be the name",
		"tap=a,mac=12":                  "no Ethernet address",
		"tap=a,mac=00:00:00:00:00:00":   "one station",
		"tap=a,mac=ff:ff:ff:ff:ff:ff":   "one station",
		"tap=a,mac=01:00:5e:00:00:01":   "one station",
		"tap=a,mac=00-00-00-00-00-00-0": "no Ethernet address",
		"tap=a,mtu=9000":                `unknown "mtu=9000"`,
	} {
		_, err := ParseNet(in)
		mentions(t, err, want, "tap=NAME")
	}
}

// TestDefaultMAC holds the addresses still: a machine must keep its address over updates of ftvm.
func TestDefaultMAC(t *testing.T) {
	if got, want := DefaultMAC("ftvm", 0).String(), "a6:7b:2a:72:e2:67"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	seen := map[MAC]bool{}
	for i := range 1000 {
		m := DefaultMAC("ftvm", i)
		if m[0]&3 != 2 || seen[m] {
			t.Errorf("interface %d: %s is not a locally administered address of its own", i, m)
		}
		seen[m] = true
	}
}
