package bootdisk

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestGrub: which entry is meant, and what its lines say.
func TestGrub(t *testing.T) {
	menu := `
menuentry 'First' --class os $menuentry_id_option 'first-id' {
	linux /first "a b" c\\d 'e f=$x'
}
submenu "Advanced" --id=advanced {
	menuentry 'Old' --id old {
		initrd ($root)/early.img /old.img
		linux (hd0,gpt1)/old root=${rootdev} \
			quiet # not really
	}
	menuentry 'Older' { linux16 /older; initrd16 /older.img }
}
function savedefault { if [ -z "${boot_once}" ]; then set saved_entry="${chosen}"; fi; }
menuentry "Last" {
	if [ "${initrdfail}" = 1 ]; then
		linux /last with; initrd /last.img
	else
		linux /last without
	fi
}
menuentry 'Firmware' { fwsetup }
`
	env := map[string]string{"saved_entry": "Advanced>old"}
	for _, row := range []struct {
		name, text      string
		title, kernel   string
		cmdline, initrd string
	}{
		{"no default", menu, "First", "/first", `"a b" c\d "e f=$x"`, ""},
		{"number", `set default="2"` + menu, "Last", "/last", "with", "/last.img"},
		{"numbers", `set default="1>1"` + menu, "Older", "/older", "", "/older.img"},
		{"submenu alone", `set rootdev=/dev/vda1; set default="1"` + menu, "Old", "/old", "root=/dev/vda1 quiet", "/early.img /old.img"},
		{"titles", `set default="Advanced>Older"` + menu, "Older", "/older", "", "/older.img"},
		{"identifiers", `default=advanced>old` + menu, "Old", "/old", "root= quiet", "/early.img /old.img"},
		{"saved", "if [ x ]; then\n set default=\"${saved_entry}\"\nfi" + menu, "Old", "/old", "root= quiet", "/early.img /old.img"},
		{"saved, for one boot", "set default=\"${next_entry}\"" + menu, "First", "/first", `"a b" c\d "e f=$x"`, ""},
		{"not there", `set default="7"` + menu, "First", "/first", `"a b" c\d "e f=$x"`, ""},
		{"no Linux", `set default=3` + menu, "", "", "", ""},
		{"no menu", "linux /k ro\ninitrd /i\nboot", "", "/k", "ro", "/i"},
		{"empty", "", "", "", "", ""},
		{"not closed", "menuentry 'A' {\n linux /k 'x", "A", "/k", "x", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			e, err := parseGrub(row.text, env)
			if err != nil {
				t.Fatal(err)
			}
			if e == nil {
				e = &entry{}
			}
			if e.title != row.title || e.kernel != row.kernel || e.cmdline != row.cmdline || strings.Join(e.initrds, " ") != row.initrd {
				t.Errorf("got %+v", *e)
			}
		})
	}
}

// TestExpansion: what a few hundred bytes stand for is bounded.
func TestExpansion(t *testing.T) {
	_, err := parseGrub("a=xx\n"+strings.Repeat("set a=$a$a\n", 40), nil)
	if !errors.Is(err, errDamaged) {
		t.Errorf("grub.cfg with variables that double: %v", err)
	}
	env := map[string]string{"x": strings.Repeat("x", maxConfig/4)}
	for times, want := range map[int]error{3: nil, 5: errDamaged, 1000: errDamaged} {
		for _, text := range []string{"options" + strings.Repeat(" $x", times), strings.Repeat("options $x\n", times)} {
			if err := parseBLS("1", text).expand(env); !errors.Is(err, want) {
				t.Errorf("an entry of the Boot Loader Specification with a variable %d times: %v, want %v", times, err, want)
			}
		}
	}
}

func TestGrubenv(t *testing.T) {
	env := parseGrubenv("# GRUB Environment Block\n# WARNING: a=b\nsaved_entry=a>b\nnext_entry=c\nempty=\n########")
	if len(env) != 2 || env["saved_entry"] != "a>b" {
		t.Errorf("got %q", env)
	}
}

// TestVersions: newer versions are more.
func TestVersions(t *testing.T) {
	want := []string{"", "abc", "b", "0-rescue", "5.9", "5.10~rc1", "5.10", "5.10-1", "5.10.1", "6", "06.1"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, compareVersions)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
