package services

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"ftvm/test/harness"
)

// load is what a client does to one service: numbered things, the next one when the one before is acknowledged.
type load struct {
	name string
	// more is how many things must be acknowledged that were begun after the kill.
	more int
	// do does thing n, counted from 1, and returns when it is acknowledged. It may tell of progress before.
	do func(ctx context.Context, n int, progress func()) error
	// verify says whether things 1 to n are there, each once, and no others. It connects anew; the guest's console is p's.
	verify func(ctx context.Context, n int, p *harness.Process) error
	close  func()

	began    chan struct{} // closed when the first thing is acknowledged
	acked    int
	progress []time.Time // acknowledgements, and what was told of in between
}

// run does things until enough were begun after the kill, which closes killed.
func (l *load) run(ctx context.Context, killed <-chan struct{}) error {
	defer l.close()
	progress := func() { l.progress = append(l.progress, time.Now()) }
	for after := 0; after < l.more; {
		select {
		case <-killed:
			after++
		default:
		}
		if err := l.do(ctx, l.acked+1, progress); err != nil {
			return fmt.Errorf("%s: number %d, %w", l.name, l.acked+1, err)
		}
		progress()
		if l.acked++; l.acked == 1 {
			close(l.began)
		}
	}
	return nil
}

// pauses are the longest times without progress that ended before t, and after it.
func (l *load) pauses(t time.Time) (before, after time.Duration) {
	for i, at := range l.progress[1:] {
		gap := at.Sub(l.progress[i])
		if at.Before(t) {
			before = max(before, gap)
		} else {
			after = max(after, gap)
		}
	}
	return before, after
}

// connectLoads connects to all services.
func connectLoads(ctx context.Context, w *world, seed uint64) (all []*load, err error) {
	for _, connect := range []func(context.Context, *world, uint64) (*load, error){postgres, redis, files} {
		l, err := connect(ctx, w, seed)
		if err != nil {
			return all, err
		}
		l.began = make(chan struct{})
		all = append(all, l)
	}
	return all, nil
}

// postgres commits numbered rows over one connection.
func postgres(ctx context.Context, w *world, _ uint64) (*load, error) {
	config, err := pgconn.ParseConfig("host=" + guestAddr + " port=5432 user=postgres dbname=postgres sslmode=disable")
	if err != nil {
		return nil, err
	}
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) { return w.dial(ctx, 5432) }
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	if _, err := query(ctx, conn, "CREATE TABLE numbers (n integer)"); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return &load{
		name: "PostgreSQL", more: 20,
		do: func(ctx context.Context, n int, _ func()) error {
			_, err := query(ctx, conn, fmt.Sprintf("INSERT INTO numbers VALUES (%d)", n))
			return err
		},
		verify: func(ctx context.Context, n int, _ *harness.Process) error {
			conn, err := pgconn.ConnectConfig(ctx, config)
			if err != nil {
				return err
			}
			defer conn.Close(ctx)
			got, err := query(ctx, conn, "SELECT n FROM numbers ORDER BY n")
			if err != nil {
				return err
			}
			return numbered(got, n)
		},
		close: func() { _ = conn.Close(ctx) },
	}, nil
}

// query returns the first column of what a statement brings.
func query(ctx context.Context, conn *pgconn.PgConn, sql string) (column []string, err error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", sql, err)
	}
	for _, row := range results[0].Rows {
		column = append(column, string(row[0]))
	}
	return column, nil
}

// redis appends numbers to a list, over one connection.
func redis(ctx context.Context, w *world, _ uint64) (*load, error) {
	conn, err := dialRedis(ctx, w)
	if err != nil {
		return nil, err
	}
	return &load{
		name: "Redis", more: 20,
		do: func(ctx context.Context, n int, _ func()) error {
			answer, err := conn.command(ctx, fmt.Sprintf("RPUSH numbers %d", n))
			if want := fmt.Sprintf(":%d", n); err == nil && answer != want {
				err = fmt.Errorf("RPUSH: the list has %s elements, want %s", answer, want)
			}
			return err
		},
		verify: func(ctx context.Context, n int, _ *harness.Process) error {
			conn, err := dialRedis(ctx, w)
			if err != nil {
				return err
			}
			defer conn.Close()
			answer, err := conn.command(ctx, "LRANGE numbers 0 -1")
			if err != nil {
				return err
			}
			count, err := strconv.Atoi(strings.TrimPrefix(answer, "*"))
			if err != nil {
				return fmt.Errorf("LRANGE: %q", answer)
			}
			var got []string
			for range 2 * count { // the length of each, and itself
				s, err := conn.line()
				if err != nil {
					return err
				}
				if !strings.HasPrefix(s, "$") {
					got = append(got, s)
				}
			}
			return numbered(got, n)
		},
		close: func() { _ = conn.Close() },
	}, nil
}

// redisConn is a connection to Redis, by its serialization protocol, RESP.
type redisConn struct {
	net.Conn
	r *bufio.Reader
}

func dialRedis(ctx context.Context, w *world) (*redisConn, error) {
	conn, err := w.dial(ctx, 6379)
	if err != nil {
		return nil, err
	}
	return &redisConn{conn, bufio.NewReader(conn)}, nil
}

// line is one of an answer: its type is the first character.
func (c *redisConn) line() (string, error) {
	s, err := c.r.ReadString('\n')
	if err == nil && strings.HasPrefix(s, "-") {
		err = errors.New(s)
	}
	return strings.TrimRight(s, "\r\n"), err
}

func (c *redisConn) command(ctx context.Context, text string) (string, error) {
	if t, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(t)
	}
	if _, err := io.WriteString(c, text+"\r\n"); err != nil {
		return "", err
	}
	return c.line()
}

// numbered checks that what was stored is the numbers from 1 to n.
func numbered(got []string, n int) error {
	for i, s := range got {
		if s != strconv.Itoa(i+1) {
			return fmt.Errorf("there is %s where %d is next, of %d", s, i+1, len(got))
		}
	}
	if len(got) != n {
		return fmt.Errorf("there are %d", len(got))
	}
	return nil
}

// fileSize is the size of each file that is copied, in bytes.
const fileSize = 4 << 20

// files copies random files to the guest and back, over a connection for each. The guest tells their SHA-256 when
// they are on its disk, and then sends them. It keeps them.
func files(_ context.Context, w *world, seed uint64) (*load, error) {
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	file := make([]byte, fileSize)
	var sums []string
	return &load{
		name: "file copy", more: 1,
		do: func(ctx context.Context, _ int, progress func()) error {
			_, _ = source.Read(file) // it never fails
			conn, err := w.dial(ctx, 7000)
			if err != nil {
				return err
			}
			defer conn.Close()
			if t, ok := ctx.Deadline(); ok {
				_ = conn.SetDeadline(t)
			}
			for part := range slices.Chunk(file, 64<<10) {
				if _, err := conn.Write(part); err != nil {
					return err
				}
				progress()
			}
			if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
				return err
			}
			var answer []byte
			buf := make([]byte, 64<<10)
			for err == nil {
				var n int
				n, err = conn.Read(buf)
				answer = append(answer, buf[:n]...)
				progress()
			}
			if err != io.EOF {
				return err
			}
			sum, back, _ := bytes.Cut(answer, []byte("\n"))
			switch want := fmt.Sprintf("%x  -", sha256.Sum256(file)); {
			case string(sum) != want:
				return fmt.Errorf("the guest has a file with SHA-256 %q, want %q", sum, want)
			case !bytes.Equal(back, file):
				return fmt.Errorf("the file came back differently: %d bytes of %d", len(back), len(file))
			}
			sums = append(sums, strings.Fields(string(sum))[0])
			return nil
		},
		verify: func(ctx context.Context, _ int, p *harness.Process) error {
			answer, err := ask(ctx, p, "sums", `sha256sum /srv/copy.* | cut -c 1-64 | tr '\n' ' '`)
			if err != nil {
				return err
			}
			got := strings.Fields(answer)
			slices.Sort(got)
			if slices.Sort(sums); !slices.Equal(got, sums) {
				return fmt.Errorf("there are files with SHA-256 %q, want %q", got, sums)
			}
			return nil
		},
		close: func() {},
	}, nil
}
