package x86

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestObjdump compares lengths, mnemonics and operands with those of objdump, of binutils.
func TestObjdump(t *testing.T) {
	for _, test := range []struct {
		name, machine string
		mode          Mode
	}{
		{"64", "i386:x86-64", Mode64},
		{"32", "i386", Mode32},
		{"16", "i8086", Mode16},
	} {
		t.Run(test.name, func(t *testing.T) {
			all := samples(t, test.mode)
			used := make([]int, len(differences))
			failed := 0
			for i, l := range objdump(t, test.machine, all) {
				s := &all[i]
				if l.agrees(s, test.mode) {
					continue
				}
				if d := slices.IndexFunc(differences, func(d difference) bool { return d.is(s, &l, test.mode) }); d >= 0 {
					used[d]++
					continue
				}
				if failed++; failed <= 20 {
					t.Errorf("%x is %q of %d bytes; objdump: %q of %d (%s)", s.code, s.text, s.inst.Len, l.text, l.len, l.full)
				}
			}
			for i, d := range differences {
				t.Logf("%5d differ: %s", used[i], d.why)
			}
			if failed > 0 {
				t.Errorf("%d of %d differ for no known reason", failed, len(all))
			}
		})
	}
}

// slot is how far the samples are apart that objdump is given: it is back in step at the end of each.
const slot = 32

// filler is what a slot has behind the sample: long NOPs.
var filler = func() (b [slot]byte) {
	for i := range b {
		b[i] = 0x66
	}
	b[15], b[23], b[31] = 0x90, 0x90, 0x90
	return b
}()

// listing is what objdump says about a sample.
type listing struct {
	len        int
	full, text string // text is without what normal removes
}

// objdump disassembles the samples.
func objdump(t *testing.T, machine string, all []sample) []listing {
	t.Helper()
	path, err := exec.LookPath("objdump")
	if err != nil {
		t.Skip("no objdump (binutils): ", err)
	}
	var image []byte
	for _, s := range all {
		code := filler
		copy(code[:], s.code[:s.inst.Len])
		image = append(image, code[:]...)
	}
	file := filepath.Join(t.TempDir(), "samples")
	if err := os.WriteFile(file, image, 0o666); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, "-D", "-z", "-w", "-b", "binary", "-m", machine, "-M", "intel,intel64", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	listings := make([]listing, len(all))
	unfinished := -1 // the sample of which nothing but prefixes was listed so far
	for line := range strings.Lines(string(out)) {
		fields := strings.SplitN(strings.TrimSpace(line)+"\t", "\t", 3)
		at, err := strconv.ParseUint(strings.TrimSuffix(fields[0], ":"), 16, 64)
		i := int(at / slot)
		if err != nil || at%slot != 0 && i != unfinished {
			continue
		}
		l := &listings[i]
		l.len += len(strings.Fields(fields[1]))
		l.full = strings.TrimSpace(l.full + " " + strings.TrimSpace(fields[2]))
		l.text = normal(l.full)
		unfinished = -1
		if l.text == "" {
			unfinished = i
		}
	}
	return listings
}

var prefixWord = regexp.MustCompile(
	`^(lock|rep|repz|repnz|data16|data32|addr16|addr32|[cdefgs]s|bnd|notrack|xacquire|xrelease|rex(\.[A-Z]+)?)$`)

// rewrites make format's style out of objdump's.
var rewrites = []struct {
	from *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`\+[er]iz\*\d`), ``}, // no index
	{regexp.MustCompile(`\+0x0\]`), `]`},
	{regexp.MustCompile(`\bst\b([^(]|$)`), `st(0)$1`},
	{regexp.MustCompile(`OWORD`), `XMMWORD`},
	{regexp.MustCompile(`^movabs `), `mov `},
	{regexp.MustCompile(`^(pcmp.str.)q `), `$1 `},
	{regexp.MustCompile(`,1$`), `,0x1`},
	{regexp.MustCompile(`\(.*only\)$`), ``},
	{regexp.MustCompile(`^(p?blendv..?|sha256rnds2) (.*),xmm0$`), `$1 $2`},
	{regexp.MustCompile(`.*(\(bad\)|\?).*`), `(bad)`},
}

// normal removes prefixes and comments, and applies rewrites.
func normal(text string) string {
	text, _, _ = strings.Cut(text, "#")
	words := strings.Fields(text)
	for len(words) > 0 && prefixWord.MatchString(words[0]) {
		words = words[1:]
	}
	text = strings.Join(words, " ")
	for _, r := range rewrites {
		text = r.from.ReplaceAllString(text, r.to)
	}
	return text
}

// agrees compares all of it, or for 16-bit mode, which objdump writes in other ways, whether it is defined, and how
// long it is.
func (l *listing) agrees(s *sample, mode Mode) bool {
	if s.err != nil || l.text == "(bad)" {
		return s.err == ErrUndefined && l.text == "(bad)"
	}
	return l.len == int(s.inst.Len) && (l.text == s.text || mode == Mode16)
}

// nameOf is the mnemonic in a text.
func nameOf(text string) string {
	name, _, _ := strings.Cut(text, " ")
	return name
}

// resembles compares the length and the mnemonic.
func (l *listing) resembles(s *sample) bool {
	return s.err == nil && l.len == int(s.inst.Len) && nameOf(l.text) == nameOf(s.text)
}

// lacksMandatory tells whether s without mandatory prefixes is what l says.
func (l *listing) lacksMandatory(s *sample, mode Mode) bool {
	if s.err != ErrUndefined {
		return false
	}
	var code []byte
	for i, b := range s.code {
		if prefixKind[b] == noPrefix || prefixKind[b] == prefixREX && mode != Mode64 {
			code = append(code, s.code[i:]...)
			break
		}
		if b != 0x66 && b != 0xf2 && b != 0xf3 {
			code = append(code, b)
		}
	}
	var in Inst
	err := Decode(append(code, make([]byte, MaxLen)...), mode, &in)
	return err == nil && (strings.HasPrefix(l.text, in.Op.String()) || nameOf(l.text) == mnemonic(&in, mode))
}

// difference is one in which objdump is not followed.
type difference struct {
	why string
	is  func(s *sample, l *listing, mode Mode) bool
}

// beyond are mnemonics of extensions that are not decoded: CET's shadow stack, Key Locker, ENQCMD, RAO-INT, UINTR,
// TDX, MSRLIST, PCONFIG, SSE4a, and AMD's and VIA's own.
var beyond = regexp.MustCompile(`^(wru?ss[dq]|incssp.|clrssbsy|rstorssp|setssbsy|saveprevssp|` +
	`aes(enc|dec)\w*kl|loadiwkey|encodekey\d+|enqcmds?|a(add|and|or|xor)|senduipi|stui|clui|testui|uiret|` +
	`seam\w+|tdcall|wrmsrns|rdmsrlist|wrmsrlist|pconfig|pbndkb|hreset|xsusldtrk|xresldtrk|` +
	`extrq|insertq|movntss|movntsd|monitorx|mwaitx|clzero|rdpru|mcommit|tlbsync|invlpgb|pvalidate|psmash|rmp\w+|` +
	`montmul|xsha\d+|xcrypt-\w+|xstore-rng)\b`)

var differences = []difference{
	{"objdump does not know where LOCK is allowed", func(s *sample, l *listing, mode Mode) bool {
		prefixes, _, _, _ := split(s.code, mode)
		return s.err == ErrUndefined && slices.Contains(prefixes, 0xf0)
	}},
	{"objdump goes on behind the limit of 15 bytes", func(s *sample, l *listing, mode Mode) bool {
		return s.err == ErrTooLong
	}},
	{"extensions that are not decoded", func(s *sample, l *listing, mode Mode) bool {
		return s.err == ErrUndefined && beyond.MatchString(l.text)
	}},
	{"VEX and EVEX are not decoded further", func(s *sample, l *listing, mode Mode) bool {
		return s.inst.Op == VEX || s.inst.Op == EVEX
	}},
	{"3DNow! is not decoded further", func(s *sample, l *listing, mode Mode) bool {
		return s.inst.Op == NOW3D
	}},
	{"objdump lets a mandatory prefix pass where the manual has NP", func(s *sample, l *listing, mode Mode) bool {
		return l.lacksMandatory(s, mode)
	}},
	{"objdump has MOV to CS, and to registers that there are not", func(s *sample, l *listing, mode Mode) bool {
		return s.err == ErrUndefined && regexp.MustCompile(`^mov.*(cs,|cr[15679]|cr1\d|dr[89]|dr1\d|tr\d)`).MatchString(l.text)
	}},
	{"objdump gives no size for offsets in MOV", func(s *sample, l *listing, mode Mode) bool {
		_, opMap, op, _ := split(s.code, mode)
		omit := regexp.MustCompile(`[A-Z]+ PTR `)
		return opMap == map1 && op >= 0xa0 && op <= 0xa3 && l.text == omit.ReplaceAllString(s.text, "") && l.resembles(s)
	}},
	{"objdump ignores that it is for 64-bit mode only", func(s *sample, l *listing, mode Mode) bool {
		return mode != Mode64 && s.err == ErrUndefined && regexp.MustCompile(`^(swapgs|(rd|wr)[fg]sbase)`).MatchString(l.text)
	}},
	{"hints and ignored prefixes that later processors gave a meaning", func(s *sample, l *listing, mode Mode) bool {
		op := s.inst.Op
		return op == NOP || op == BSF || op == BSR || op == WBINVD || op == VMMCALL
	}},
	{"objdump puts FWAIT and the next instruction together", func(s *sample, l *listing, mode Mode) bool {
		return s.inst.Op == FWAIT
	}},
	{"F3 41 90 is XCHG", func(s *sample, l *listing, mode Mode) bool {
		return l.text == "pause" && s.inst.Op == XCHG
	}},
	{"objdump heeds 66 beside REX.W", func(s *sample, l *listing, mode Mode) bool {
		switch s.inst.Op {
		case MOVSXD, FLDENV, FNSTENV, FRSTOR, FNSAVE:
			return s.inst.OpSize == 8 && l.len == int(s.inst.Len)
		}
		return false
	}},
	{"objdump heeds 66 beside F3 and F2", func(s *sample, l *listing, mode Mode) bool {
		return (s.inst.Op == MOVQ2DQ || s.inst.Op == MOVDQ2Q) && l.resembles(s)
	}},
	{"x87 opcodes and fences that the manual leaves out or has no more, SALC", func(s *sample, l *listing, mode Mode) bool {
		_, opMap, op, _ := split(s.code, mode)
		return l.text == "frstpm" || l.text == "(bad)" && (opMap == map1 && op >= 0xd8 && op <= 0xdf || opMap == map0F && op == 0xae || s.inst.Op == SALC)
	}},
	{"objdump heeds a REX prefix that another prefix follows", func(s *sample, l *listing, mode Mode) bool {
		i := 0
		for prefixKind[s.code[i]] != noPrefix {
			i++
		}
		return mode == Mode64 && slices.ContainsFunc(s.code[:max(0, i-1)], func(b byte) bool { return prefixKind[b] == prefixREX })
	}},
	{"of two segment overrides objdump shows one", func(s *sample, l *listing, mode Mode) bool {
		prefixes, _, _, _ := split(s.code, mode)
		n := 0
		for _, b := range prefixes {
			if prefixKind[b] == prefixSeg {
				n++
			}
		}
		return n > 1 && l.resembles(s)
	}},
	{"objdump shows an override of DS by DS", func(s *sample, l *listing, mode Mode) bool {
		omit := regexp.MustCompile(`(ds|ss):\[`)
		return omit.ReplaceAllString(l.text, "[") == omit.ReplaceAllString(s.text, "[") && l.resembles(s)
	}},
	{"objdump shows an index that is not there", func(s *sample, l *listing, mode Mode) bool {
		return strings.Contains(l.text, "iz*") && l.resembles(s)
	}},
	{"objdump names a wider register", func(s *sample, l *listing, mode Mode) bool {
		switch s.inst.Op {
		case LAR, LSL, MOVMSKPS, MOVMSKPD, PMOVMSKB, PEXTRW, TPAUSE:
			return l.resembles(s)
		case MOV:
			return s.inst.Arg[0].Kind == SReg && l.resembles(s)
		}
		return false
	}},
	{"objdump ignores REX.W of far pointers", func(s *sample, l *listing, mode Mode) bool {
		return s.inst.OpSize == 8 && strings.Contains(s.text, "TBYTE") && l.resembles(s)
	}},
	{"objdump does not truncate the target of a short branch", func(s *sample, l *listing, mode Mode) bool {
		return s.inst.OpSize == 2 && s.inst.Arg[0].Kind == Rel && l.resembles(s)
	}},
	{"objdump has more names for SYSRET, SYSEXIT, PCLMULQDQ and XBEGIN", func(s *sample, l *listing, mode Mode) bool {
		return s.inst.Op == SYSRET || s.inst.Op == SYSEXIT || s.inst.Op == PCLMULQDQ || s.inst.Op == XBEGIN
	}},
	{"MOVDIR64B's address register is not that of objdump", func(s *sample, l *listing, mode Mode) bool {
		return s.inst.Op == MOVDIR64B && bytes.ContainsRune(s.code, 0x67)
	}},
}
