package devices

import "ftvm/vmm"

// Ports of the real-time clock.
const (
	portRTCIndex = 0x70 // bit 7 masks NMI, which has no source here
	portRTCData  = 0x71
)

// Registers (Motorola MC146818 datasheet, address map; the century is where PC firmware and
// ACPI's FADT have it by convention). 1, 3 and 5 are the alarm's.
const (
	rtcSeconds = 0x00
	rtcMinutes = 0x02
	rtcHours   = 0x04
	rtcWeekday = 0x06 // 1 is Sunday
	rtcDay     = 0x07
	rtcMonth   = 0x08
	rtcYear    = 0x09
	rtcA       = 0x0A
	rtcB       = 0x0B
	rtcC       = 0x0C
	rtcD       = 0x0D
	rtcCentury = 0x32
)

const (
	rtcUIP    = 1 << 7 // register A: an update is in progress
	rtcSET    = 1 << 7 // register B: updates are held off
	rtcBinary = 1 << 2 // register B: DM
	rtc24Hour = 1 << 1 // register B
	rtcVRT    = 1 << 7 // register D: RAM and time are valid
	rtcPM     = 1 << 7 // hours, in 12-hour mode
)

// rtcMaxOffset bounds the offset of a restored clock: about 34,000 years, more than
// the registers can hold.
const rtcMaxOffset = 1 << 40

// rtc is the MC146818 clock with 128 bytes of RAM. It shows guest time (UTC), moved by
// as many seconds as the guest set it off.
//
// It departs from the MC146818 in this: there are no interrupts (register C is 0; the
// enable bits and the alarm are only stored); an update takes no time, so UIP is
// always clear; the divider and daylight saving bits are only stored; leap years are
// Gregorian; the day of the week follows from the date; and a date that does not exist
// is carried over (30 February is 1 or 2 March) once the clock runs.
type rtc struct {
	index  uint8
	now    vmm.Time
	offset int64      // seconds
	ram    [128]uint8 // registers as the guest last saw or set them, and plain RAM
}

// newRTC returns a clock as firmware leaves it: 32768 Hz divider, 24 hours, BCD, valid.
func newRTC() *rtc {
	r := &rtc{}
	r.ram[rtcA] = 0x26
	r.ram[rtcB] = rtc24Hour
	r.ram[rtcD] = rtcVRT
	return r
}

// setTime makes guest time t.
func (r *rtc) setTime(t vmm.Time) { r.now = t }

// running reports whether the registers follow the clock.
func (r *rtc) running() bool { return r.ram[rtcB]&rtcSET == 0 }

func (r *rtc) in(port uint16) uint8 {
	if port == portRTCIndex { // write only; nobody drives the bus
		return 0xFF
	}
	if r.running() {
		r.freeze()
	}
	return r.ram[r.index]
}

func (r *rtc) out(port uint16, v uint8) {
	if port == portRTCIndex {
		r.index = v & 0x7F
		return
	}
	running := r.running()
	switch r.index {
	case rtcA:
		r.ram[rtcA] = v &^ rtcUIP
	case rtcB:
		if running && v&rtcSET != 0 {
			r.freeze()
		}
		r.ram[rtcB] = v
		if !running && v&rtcSET == 0 {
			r.thaw()
		}
	case rtcC, rtcD: // read only
	case rtcSeconds, rtcMinutes, rtcHours, rtcWeekday, rtcDay, rtcMonth, rtcYear, rtcCentury:
		if running {
			r.freeze()
		}
		r.ram[r.index] = v
		if running {
			r.thaw()
		}
	default:
		r.ram[r.index] = v
	}
}

// seconds is guest time since 1970, without the offset.
func (r *rtc) seconds() int64 { return int64(r.now / nsHz) }

// freeze fills the time registers from the clock.
func (r *rtc) freeze() {
	t := r.seconds() + r.offset
	days := floorDiv(t, 86400)
	second := t - days*86400
	year, month, day := civil(days)
	hour, pm := second/3600, uint8(0)
	if r.ram[rtcB]&rtc24Hour == 0 {
		if hour >= 12 {
			pm = rtcPM
		}
		hour = (hour+11)%12 + 1
	}
	r.ram[rtcSeconds] = r.encode(second % 60)
	r.ram[rtcMinutes] = r.encode(second / 60 % 60)
	r.ram[rtcHours] = r.encode(hour) | pm
	r.ram[rtcWeekday] = r.encode((days + 4) - floorDiv(days+4, 7)*7 + 1) // 1970-01-01 was a Thursday
	r.ram[rtcDay] = r.encode(day)
	r.ram[rtcMonth] = r.encode(month)
	r.ram[rtcYear] = r.encode(year % 100)
	r.ram[rtcCentury] = r.encode(year / 100 % 100)
}

// thaw sets the clock to what the time registers say.
func (r *rtc) thaw() {
	hour := r.decode(r.ram[rtcHours])
	if r.ram[rtcB]&rtc24Hour == 0 {
		hour = r.decode(r.ram[rtcHours]&^rtcPM) % 12
		if r.ram[rtcHours]&rtcPM != 0 {
			hour += 12
		}
	}
	year := r.decode(r.ram[rtcCentury])*100 + r.decode(r.ram[rtcYear])
	days := daysTo(year, r.decode(r.ram[rtcMonth]), r.decode(r.ram[rtcDay]))
	t := days*86400 + hour*3600 + r.decode(r.ram[rtcMinutes])*60 + r.decode(r.ram[rtcSeconds])
	r.offset = t - r.seconds()
}

// encode and decode convert to and from the registers' format, DM in register B.
func (r *rtc) encode(v int64) uint8 {
	if r.ram[rtcB]&rtcBinary == 0 {
		v = v/10<<4 | v%10
	}
	return uint8(v)
}

func (r *rtc) decode(v uint8) int64 {
	if r.ram[rtcB]&rtcBinary == 0 {
		v = v>>4*10 + v&15
	}
	return int64(v)
}

func (r *rtc) State(a *vmm.Archive) {
	a.Section("rtc")
	offset := uint64(r.offset)
	a.U8("index", &r.index)
	a.U64("now", (*uint64)(&r.now))
	a.U64("offset", &offset)
	a.Fixed("ram", r.ram[:])
	if !a.Loading() {
		return
	}
	r.offset = int64(offset)
	if r.index > 0x7F || r.offset > rtcMaxOffset || r.offset < -rtcMaxOffset {
		a.Fail("index %#x, offset %d s: out of range", r.index, r.offset)
		r.index, r.offset = 0, 0
	}
}

// The calendar is the proleptic Gregorian one. Years are counted from 1 March, so that the
// leap day is the last of its year: then month m (March is 0) starts on day
// (153*m+2)/5, 153 being the days of the five months from March, and again from August, on.

// epochDay is 1970-01-01 in days from 1 March of year 0.
const epochDay = 719468

// yearStart is the first day of a year, in days from 1 March of year 0.
func yearStart(year int64) int64 {
	return year*365 + floorDiv(year, 4) - floorDiv(year, 100) + floorDiv(year, 400)
}

// daysTo is the number of days from 1970-01-01 to a date. Month and day may be out of
// range and are carried over.
func daysTo(year, month, day int64) int64 {
	carry := floorDiv(month-3, 12)
	month -= 3 + carry*12
	return yearStart(year+carry) + (153*month+2)/5 + day - 1 - epochDay
}

// civil is the date that lies a number of days after 1970-01-01.
func civil(days int64) (year, month, day int64) {
	days += epochDay
	year = floorDiv(days*400, 400*365+97) // by the mean year: right, or one short
	if yearStart(year+1) <= days {
		year++
	}
	days -= yearStart(year)
	month = (5*days + 2) / 153
	day = days - (153*month+2)/5 + 1
	if month += 3; month > 12 {
		month -= 12
		year++
	}
	return year, month, day
}

// floorDiv is a/b rounded down; b is positive.
func floorDiv(a, b int64) int64 {
	if a < 0 {
		return -((b - 1 - a) / b)
	}
	return a / b
}
