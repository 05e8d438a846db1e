package host

import (
	"strings"
	"testing"
)

func TestParseDisk(t *testing.T) {
	tcp := func(address, export string) NBDAddress { return NBDAddress{"tcp", address, export} }
	for in, want := range map[string]DiskSpec{
		"disk.img":                         {Path: "disk.img"},
		"/a b/disk.img,ro":                 {Path: "/a b/disk.img", ReadOnly: true},
		"x,shared":                         {Path: "x", Shared: true},
		"x,serial=A-1,shared,ro":           {Path: "x", Shared: true, ReadOnly: true, Serial: "A-1"},
		"nbd://h/e":                        {NBD: tcp("h:10809", "e"), Shared: true},
		"nbd://h":                          {NBD: tcp("h:10809", ""), Shared: true},
		"nbd://[::1]:7/a/b,ro":             {NBD: tcp("[::1]:7", "a/b"), Shared: true, ReadOnly: true},
		"nbd://h:1/e,size=4G,serial=x":     {NBD: tcp("h:1", "e"), Shared: true, Size: 4 << 30, Serial: "x"},
		"nbd+unix:///e?socket=/run/n.sock": {NBD: NBDAddress{"unix", "/run/n.sock", "e"}, Shared: true},
		"nbd+unix:///?socket=n.sock":       {NBD: NBDAddress{"unix", "n.sock", ""}, Shared: true},
	} {
		got, err := ParseDisk(in)
		if got != want || err != nil {
			t.Errorf("ParseDisk(%q) = %+v, %v; want %+v", in, got, err, want)
		}
		if got.Path == "" {
			if again, err := parseNBD(got.NBD.String()); again != got.NBD || err != nil {
				t.Errorf("%s is %+v, %v; want %+v", got.NBD, again, err, got.NBD)
			}
		}
	}
	for in, want := range map[string]string{
		"":                                    "names no file",
		",ro":                                 "names no file",
		"x,rw":                                `unknown "rw"`,
		"x,ro,ro":                             "given twice",
		"x,ro=1":                              `unknown "ro=1"`,
		"x,size=1G":                           "unknown",
		"x,serial":                            "unknown",
		"x,serial=":                           "serial number",
		"x,serial=" + "123456789012345678901": "serial number",
		"x,serial=a b":                        "serial number",
		"nbd:h":                               "more in this URL",
		"nbd://":                              "no NBD address",
		"nbd://h/e?socket=x":                  "no NBD address",
		"nbd://h/e?tls=1":                     "more in this URL",
		"nbd://u@h/e":                         "more in this URL",
		"nbd+unix:///e":                       "no NBD address",
		"nbd+tls://h/e":                       "no NBD address",
		"nbd://h:port/":                       "invalid port",
		"nbd://h/" + strings.Repeat("x", maxExportName+1): "longer than",
		"nbd://h/e,size=x":   "want a number of bytes",
		"nbd://h/e,size=100": "multiple of 512",
	} {
		_, err := ParseDisk(in)
		mentions(t, err, want, diskUsage)
	}
}
