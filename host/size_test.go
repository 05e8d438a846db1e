package host

import "testing"

func TestParseSize(t *testing.T) {
	for _, c := range []struct {
		in   string
		want uint64
		ok   bool
	}{
		{"0", 0, true},
		{"4096", 4096, true},
		{"64M", 64 << 20, true},
		{"64m", 64 << 20, true},
		{"512MiB", 512 << 20, true},
		{"512mib", 512 << 20, true},
		{"1G", 1 << 30, true},
		{"3KiB", 3 << 10, true},
		{"2T", 2 << 40, true},
		{"16777215T", 16777215 << 40, true},
		{"18446744073709551615", 1<<64 - 1, true},
		{in: "16777216T"},
		{in: "18446744073709551616"},
		{in: ""},
		{in: "M"},
		{in: "-1"},
		{in: "+1"},
		{in: "1.5G"},
		{in: "64 M"},
		{in: "64MB"},
		{in: "64B"},
		{in: "64iB"},
		{in: "64X"},
		{in: "64MM"},
		{in: "0x10"},
		{in: "６４M"},
	} {
		got, err := ParseSize(c.in)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("ParseSize(%q) = %d, %v; want %d, ok %v", c.in, got, err, c.want, c.ok)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0", 512: "512", 1024: "1KiB", 1536: "1536", 64 << 20: "64MiB", 1<<30 + 1<<20: "1025MiB", 5 << 50: "5120TiB",
	} {
		if got := FormatSize(n); got != want {
			t.Errorf("FormatSize(%d) = %q, want %q", n, got, want)
		}
		if back, err := ParseSize(want); back != n || err != nil {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", want, back, err, n)
		}
	}
}
