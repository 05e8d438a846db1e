package devices

import (
	"testing"
	"time"

	"ftvm/vmm"
)

func (r *rtc) get(reg uint8) uint8 {
	r.out(0x70, reg)
	return r.in(0x71)
}

func (r *rtc) put(reg, v uint8) {
	r.out(0x70, reg)
	r.out(0x71, v)
}

func bcd(v int) uint8 { return uint8(v/10<<4 | v%10) }

// wantClock compares the registers, in 24-hour BCD, with a time.
func (r *rtc) wantClock(t *testing.T, want time.Time) {
	t.Helper()
	for _, reg := range []struct {
		name   string
		number uint8
		want   int
	}{
		{"seconds", 0x00, want.Second()}, {"minutes", 0x02, want.Minute()}, {"hours", 0x04, want.Hour()},
		{"day of the week", 0x06, int(want.Weekday()) + 1}, {"day", 0x07, want.Day()},
		{"month", 0x08, int(want.Month())}, {"year", 0x09, want.Year() % 100}, {"century", 0x32, want.Year() / 100},
	} {
		if got := r.get(reg.number); got != bcd(reg.want) {
			t.Fatalf("%s: %s is %#02x, want %#02x", want, reg.name, got, bcd(reg.want))
		}
	}
}

// guestTime is t as the machine counts it.
func guestTime(t time.Time) vmm.Time { return vmm.Time(t.UnixNano()) }

func TestRTCShowsGuestTime(t *testing.T) {
	r := newRTC()
	for _, at := range []time.Time{
		time.Unix(0, 0).UTC(),
		time.Date(1999, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
		time.Date(2000, 2, 29, 0, 0, 0, 0, time.UTC),
		time.Date(2024, 2, 29, 12, 0, 0, 1, time.UTC),
		time.Date(2026, 11, 20, 11, 9, 8, 0, time.UTC),
		time.Date(2100, 2, 28, 23, 59, 59, 0, time.UTC),
		time.Date(2100, 3, 1, 0, 0, 0, 0, time.UTC),
	} {
		r.setTime(guestTime(at))
		r.wantClock(t, at)
	}
}

// TestRTCCalendar checks every day of 800 years, and the carrying of days and months.
func TestRTCCalendar(t *testing.T) {
	at := time.Date(1600, 1, 1, 0, 0, 0, 0, time.UTC)
	for ; at.Year() < 2400; at = at.AddDate(0, 0, 1) {
		days := floorDiv(at.Unix(), 86400)
		year, month, day := civil(days)
		if int(year) != at.Year() || time.Month(month) != at.Month() || int(day) != at.Day() {
			t.Fatalf("day %d is %d-%d-%d, want %s", days, year, month, day, at.Format(time.DateOnly))
		}
		if got := daysTo(year, month, day); got != days {
			t.Fatalf("%s is day %d, want %d", at.Format(time.DateOnly), got, days)
		}
	}
	for _, year := range []int{0, 1, 399, 400, 1970, 2000, 9999, 25755} {
		for month := 0; month <= 255; month += 5 {
			for day := 0; day <= 255; day += 15 {
				want := floorDiv(time.Date(year, time.Month(month), day, 0, 0, 0, 0, time.UTC).Unix(), 86400)
				if got := daysTo(int64(year), int64(month), int64(day)); got != want {
					t.Fatalf("%d-%d-%d is day %d, want %d", year, month, day, got, want)
				}
				y, m, d := civil(want)
				if got := daysTo(y, m, d); got != want || m < 1 || m > 12 || d < 1 || d > 31 {
					t.Fatalf("day %d is %d-%d-%d, which is day %d", want, y, m, d, got)
				}
			}
		}
	}
}

// TestRTCSet sets the clock as Linux's mc146818_set_time does: SET, registers, SET off.
func TestRTCSet(t *testing.T) {
	r := newRTC()
	start := time.Date(2026, 11, 20, 11, 9, 8, 500_000_000, time.UTC)
	r.setTime(guestTime(start))
	r.put(0x0B, 0x82)
	for _, w := range [...][2]uint8{
		{0x00, 0x59}, {0x02, 0x59}, {0x04, 0x23}, {0x07, 0x28}, {0x08, 0x02}, {0x09, 0x36}, {0x32, 0x19},
	} {
		r.put(w[0], w[1])
	}
	r.setTime(guestTime(start.Add(time.Minute)))
	wantPort(t, "seconds while SET", r.get(0x00), 0x59)
	r.put(0x0B, 0x02)
	r.wantClock(t, time.Date(1936, 2, 28, 23, 59, 59, 0, time.UTC))
	r.setTime(guestTime(start.Add(time.Minute + 499*time.Millisecond)))
	r.wantClock(t, time.Date(1936, 2, 28, 23, 59, 59, 0, time.UTC))
	r.setTime(guestTime(start.Add(time.Minute + 500*time.Millisecond)))
	r.wantClock(t, time.Date(1936, 2, 29, 0, 0, 0, 0, time.UTC))
}

// TestRTCWriteWhileRunning: a register written without SET changes at once, and only it.
func TestRTCWriteWhileRunning(t *testing.T) {
	r := newRTC()
	start := time.Date(2026, 11, 20, 11, 9, 8, 0, time.UTC)
	r.setTime(guestTime(start))
	r.put(0x04, 0x05)
	r.wantClock(t, time.Date(2026, 11, 20, 5, 9, 8, 0, time.UTC))
	r.setTime(guestTime(start.Add(25 * time.Hour)))
	r.wantClock(t, time.Date(2026, 11, 21, 6, 9, 8, 0, time.UTC))
	r.put(0x06, 0x01)
	r.wantClock(t, time.Date(2026, 11, 21, 6, 9, 8, 0, time.UTC))
}

func TestRTCFormats(t *testing.T) {
	const (
		seconds = 0x00
		hours   = 0x04
	)
	for _, tt := range []struct {
		b    uint8
		hour int
		want uint8
	}{
		{0x02, 0, 0x00}, {0x02, 23, 0x23}, {0x06, 23, 23},
		{0x00, 0, 0x12}, {0x00, 1, 0x01}, {0x00, 11, 0x11}, {0x00, 12, 0x92}, {0x00, 13, 0x81}, {0x00, 23, 0x91},
		{0x04, 0, 12}, {0x04, 11, 11}, {0x04, 12, 0x8C}, {0x04, 22, 0x8A},
	} {
		r := newRTC()
		at := time.Date(2026, 11, 20, tt.hour, 0, 45, 0, time.UTC)
		r.setTime(guestTime(at))
		r.put(0x0B, tt.b)
		if got := r.get(hours); got != tt.want {
			t.Errorf("register B %#02x: hour %d reads %#02x, want %#02x", tt.b, tt.hour, got, tt.want)
		}
		r.put(hours, tt.want)
		r.put(seconds, r.get(seconds))
		r.put(0x0B, 0x02)
		r.wantClock(t, at)
	}
}

// TestRTCNoSuchDate: what no calendar has is carried over.
func TestRTCNoSuchDate(t *testing.T) {
	for _, tt := range []struct {
		day, month, hour, second uint8
		want                     time.Time
	}{
		{30, 2, 0, 0, time.Date(2027, 3, 2, 0, 0, 0, 0, time.UTC)},
		{0, 1, 0, 0, time.Date(2026, 12, 31, 0, 0, 0, 0, time.UTC)},
		{1, 0, 0, 0, time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)},
		{31, 12, 24, 60, time.Date(2028, 1, 1, 0, 1, 0, 0, time.UTC)},
		{255, 255, 255, 255, time.Date(2027, 255, 255, 255, 0, 255, 0, time.UTC)},
	} {
		r := newRTC()
		r.setTime(guestTime(time.Date(2027, 5, 5, 5, 5, 5, 0, time.UTC)))
		r.put(0x0B, 0x86)
		for _, w := range [...][2]uint8{
			{0x00, tt.second}, {0x02, 0}, {0x04, tt.hour}, {0x07, tt.day}, {0x08, tt.month}, {0x09, 27}, {0x32, 20},
		} {
			r.put(w[0], w[1])
		}
		r.put(0x0B, 0x06)
		r.put(0x0B, 0x02)
		r.wantClock(t, tt.want)
	}
}

func TestRTCRegisters(t *testing.T) {
	r := newRTC()
	r.put(0x0A, 0xFF)
	wantPort(t, "A: UIP is clear", r.get(0x0A), 0x7F)
	r.put(0x0C, 0xFF)
	wantPort(t, "C: no interrupt is pending", r.get(0x0C), 0)
	r.put(0x0D, 0x00)
	wantPort(t, "D: valid, and Linux wants the other bits clear", r.get(0x0D), 0x80)
	wantPort(t, "the index port is write only", r.in(0x70), 0xFF)
	for reg := uint8(0x0E); reg < 0x80; reg++ {
		if reg != rtcCentury {
			r.put(reg, ^reg)
		}
	}
	r.put(0x05, 0xC7)
	wantPort(t, "alarm", r.get(0x05), 0xC7)
	for reg := uint8(0x0E); reg < 0x80; reg++ {
		if reg != rtcCentury {
			wantPort(t, "RAM, with NMI masked", r.get(reg|0x80), ^reg)
		}
	}
}

func TestRTCRejectsState(t *testing.T) {
	for _, bad := range []*rtc{{index: 0x80}, {offset: rtcMaxOffset + 1}, {offset: -rtcMaxOffset - 1}} {
		if err := loadState(newRTC(), saveState(t, bad)); err == nil {
			t.Errorf("index %#x, offset %d: restored, want an error", bad.index, bad.offset)
		}
	}
}

func FuzzRTC(f *testing.F) {
	fuzzDevice(f, func() specimen {
		r := newRTC()
		return specimen{r, nil, func(op, x, y uint8) (v uint64) {
			switch op % 3 {
			case 0:
				v = uint64(r.in(0x70 + uint16(x&1)))
			case 1:
				r.out(0x70+uint16(x&1), y)
			case 2:
				now := r.now
				r.setTime(guestClock(&now, x, y))
			}
			return v
		}}
	},
		"",
		"\x02\x2f\xc4\x01\x00\x00\x00\x01\x00\x01\x00\x09\x00\x01\x00\x01\x01\x99\x01\x00\x32\x00\x01\x00",
		"\x01\x00\x0b\x01\x01\x84\x01\x00\x08\x01\x01\xff\x02\x28\x10\x01\x00\x0b\x01\x01\x00\x01\x00\x04\x00\x01\x00",
	)
}
