// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Moves bytes between the guest and the host over TCP and vsock, and proves that they arrived:
// whole, in order, once. The same static binary runs at both ends. `stream --help` is the manual.
//
// One transfer: the sender connects, sends a pattern whose byte at offset n depends on n, and shuts
// its side down. The receiver compares each byte while it reads, and answers with a Verdict. The
// sender's time runs until the verdict is there, so a rate counts delivered bytes, not bytes that a
// socket buffer took.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

// After sys/socket.h, which it needs.
#include <linux/vm_sockets.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr std::string_view kHelp =
    R"(stream serve ADDRESS...                 receive on all of them until killed
stream send ADDRESS BYTES [CHUNK]       send that many bytes (K, M, G allowed)
stream send-until-term ADDRESS [CHUNK]  send until SIGTERM, then wait for the peer's verdict as always
stream ping-until-term ADDRESS RATE     numbered datagrams to `udp`, RATE a second, until SIGTERM; says what came back
stream round-trips ADDRESS COUNT        as many datagrams to `udp`, each when the last has come back; says how long that took

ADDRESS: tcp:IP:PORT, udp:IP:PORT (a server sends every datagram back), vsock:CID:PORT or seqpacket:CID:PORT; the CID of the host is 2, a server's is `any`.
         unix:PATH:PORT or unixseq:PATH:PORT: the host's side of a socket device that is served in process. A server
         listens at PATH_PORT; a sender connects to PATH (unixseq: PATH.seqpacket) and says CONNECT PORT.
A sender prints: bytes=N seconds=S MBps=R verified=yes. Exit code 0 when the peer has confirmed every byte.
ping-until-term prints: sent=N lost=N twice=N reordered=N longest_gap_ms=R. Exit code 0 when none was lost, came twice or
out of order.
round-trips prints: count=N p50_us=R p90_us=R p99_us=R lost=N.
)";

// A prime, so that a lost, doubled or swapped block of any power of two shifts the pattern visibly.
constexpr size_t kPeriodBytes = 65521;
constexpr size_t kBlockBytes = 65536;
constexpr int kSilenceLimitS = 60;

struct Verdict {
  uint64_t byte_count;
  uint64_t first_wrong_offset;  // ~0 when none is wrong
};
constexpr uint64_t kNoneWrong = ~uint64_t{0};

[[noreturn]] void Fail(const std::string& what) {
  std::fprintf(stderr, "stream: %s: %s\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

// Two periods, so that a block that starts anywhere in the first is contiguous.
const std::vector<char>& Pattern() {
  static const std::vector<char> pattern = [] {
    std::vector<char> bytes(2 * kPeriodBytes + kBlockBytes);
    uint32_t state = 0x9e3779b9;
    for (size_t i = 0; i < kPeriodBytes; ++i) {
      state = state * 1664525 + 1013904223;
      bytes[i] = static_cast<char>(state >> 24);
    }
    for (size_t i = kPeriodBytes; i < bytes.size(); ++i) bytes[i] = bytes[i - kPeriodBytes];
    return bytes;
  }();
  return pattern;
}

struct Address {
  std::string text;
  int family = 0;
  int type = SOCK_STREAM;
  sockaddr_storage storage = {};
  socklen_t length = 0;
  // Of the unix kinds: where a server listens instead, and what a sender asks for.
  sockaddr_un listen_at = {};
  std::string hello;
};

sockaddr_un UnixAddress(const std::string& path) {
  sockaddr_un un = {};
  un.sun_family = AF_UNIX;
  if (path.size() >= sizeof(un.sun_path)) {
    std::fprintf(stderr, "stream: '%s' is too long for a socket\n", path.c_str());
    std::exit(2);
  }
  std::memcpy(un.sun_path, path.c_str(), path.size());
  return un;
}

uint64_t ParseNumber(std::string_view text) {
  char* end = nullptr;
  const std::string copy(text);
  uint64_t value = std::strtoull(copy.c_str(), &end, 0);
  switch (*end) {
    case 'G':
      value *= 1024;
      [[fallthrough]];
    case 'M':
      value *= 1024;
      [[fallthrough]];
    case 'K':
      value *= 1024;
      ++end;
      break;
    default:
      break;
  }
  if (*end != '\0' || end == copy.c_str()) {
    std::fprintf(stderr, "stream: '%s' is not a number\n", copy.c_str());
    std::exit(2);
  }
  return value;
}

Address ParseAddress(const std::string& text) {
  const size_t first = text.find(':');
  const size_t last = text.rfind(':');
  if (first == std::string::npos || first == last) {
    std::fprintf(stderr, "stream: '%s' is not KIND:HOST:PORT\n", text.c_str());
    std::exit(2);
  }
  const std::string kind = text.substr(0, first);
  const std::string host = text.substr(first + 1, last - first - 1);
  const uint64_t port = ParseNumber(text.substr(last + 1));
  Address address;
  address.text = text;
  if (kind == "tcp" || kind == "udp") {
    address.family = AF_INET;
    if (kind == "udp") address.type = SOCK_DGRAM;
    sockaddr_in in = {};
    in.sin_family = AF_INET;
    in.sin_port = htons(static_cast<uint16_t>(port));
    if (host != "any" && inet_pton(AF_INET, host.c_str(), &in.sin_addr) != 1) {
      std::fprintf(stderr, "stream: '%s' is not an IPv4 address\n", host.c_str());
      std::exit(2);
    }
    std::memcpy(&address.storage, &in, sizeof(in));
    address.length = sizeof(in);
  } else if (kind == "vsock" || kind == "seqpacket") {
    address.family = AF_VSOCK;
    if (kind == "seqpacket") address.type = SOCK_SEQPACKET;
    sockaddr_vm vm = {};
    vm.svm_family = AF_VSOCK;
    vm.svm_cid = host == "any" ? VMADDR_CID_ANY : static_cast<uint32_t>(ParseNumber(host));
    vm.svm_port = static_cast<uint32_t>(port);
    std::memcpy(&address.storage, &vm, sizeof(vm));
    address.length = sizeof(vm);
  } else if (kind == "unix" || kind == "unixseq") {
    address.family = AF_UNIX;
    if (kind == "unixseq") address.type = SOCK_SEQPACKET;
    const sockaddr_un un = UnixAddress(kind == "unixseq" ? host + ".seqpacket" : host);
    std::memcpy(&address.storage, &un, sizeof(un));
    address.length = sizeof(un);
    address.listen_at = UnixAddress(host + "_" + std::to_string(port));
    address.hello = "CONNECT " + std::to_string(port) + "\n";
  } else {
    std::fprintf(stderr, "stream: '%s' is not tcp, vsock, seqpacket, unix or unixseq\n",
                 kind.c_str());
    std::exit(2);
  }
  return address;
}

const sockaddr* Raw(const Address& address) {
  return reinterpret_cast<const sockaddr*>(&address.storage);
}

int Open(const Address& address) {
  const int fd = socket(address.family, address.type | SOCK_CLOEXEC, 0);
  if (fd < 0) Fail(address.text + ": socket");
  // A peer that has gone silent fails the transfer instead of holding the test up to its own
  // deadline.
  const timeval limit = {.tv_sec = kSilenceLimitS, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  if (address.type == SOCK_DGRAM) {
    // A receiver that does not get the CPU for a second loses nothing either.
    const int buffer_bytes = 8 << 20;
    setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &buffer_bytes, sizeof(buffer_bytes));
  }
  return fd;
}

// Binds as a server.
void Bind(int fd, const Address& address) {
  int result = 0;
  if (address.family == AF_UNIX) {
    unlink(address.listen_at.sun_path);
    result =
        bind(fd, reinterpret_cast<const sockaddr*>(&address.listen_at), sizeof(address.listen_at));
  } else {
    result = bind(fd, Raw(address), address.length);
  }
  if (result != 0) Fail(address.text + ": bind");
}

// Has the guest's port connected, and waits until it is.
void SayHello(int fd, const Address& to) {
  if (to.hello.empty()) return;
  if (send(fd, to.hello.data(), to.hello.size(), MSG_NOSIGNAL) < 0) Fail(to.text + ": CONNECT");
  // Byte by byte, as what follows the line is data.
  std::array<char, 64> answer = {};
  size_t have = 0;
  while (have < answer.size() - 1 && std::strchr(answer.data(), '\n') == nullptr) {
    const size_t room = to.type == SOCK_STREAM ? 1 : answer.size() - 1;
    const ssize_t got = recv(fd, answer.data() + have, room, 0);
    if (got == 0) errno = ECONNREFUSED;
    if (got <= 0) Fail(to.text + ": no answer to CONNECT");
    have += static_cast<size_t>(got);
  }
  if (std::strncmp(answer.data(), "OK ", 3) != 0) {
    errno = EPROTO;
    Fail(to.text + ": the answer to CONNECT is '" + answer.data() + "'");
  }
}

// Receives until the peer shuts down, comparing with the pattern.
Verdict ReceiveAll(int fd, const std::string& from) {
  Verdict verdict = {.byte_count = 0, .first_wrong_offset = kNoneWrong};
  std::vector<char> block(kBlockBytes);
  while (true) {
    const ssize_t got = recv(fd, block.data(), block.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) Fail(from + ": recv after " + std::to_string(verdict.byte_count) + " bytes");
    if (got == 0) return verdict;
    const char* expected = Pattern().data() + verdict.byte_count % kPeriodBytes;
    const auto size = static_cast<size_t>(got);
    if (verdict.first_wrong_offset == kNoneWrong &&
        std::memcmp(block.data(), expected, size) != 0) {
      const auto mismatch = std::mismatch(block.begin(), block.begin() + got, expected);
      verdict.first_wrong_offset =
          verdict.byte_count + static_cast<uint64_t>(mismatch.first - block.begin());
    }
    verdict.byte_count += size;
  }
}

volatile sig_atomic_t g_stop = 0;

// Sends byte_limit bytes, fewer when SIGTERM comes.
uint64_t SendAll(int fd, const std::string& to, uint64_t byte_limit, size_t chunk_bytes) {
  uint64_t sent = 0;
  while (sent < byte_limit && g_stop == 0) {
    const size_t size = std::min<uint64_t>(chunk_bytes, byte_limit - sent);
    const ssize_t put = send(fd, Pattern().data() + sent % kPeriodBytes, size, MSG_NOSIGNAL);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) Fail(to + ": send after " + std::to_string(sent) + " bytes");
    sent += static_cast<uint64_t>(put);
  }
  if (shutdown(fd, SHUT_WR) != 0) Fail(to + ": shutdown");
  return sent;
}

void Receive(int fd, const std::string& from) {
  const Verdict verdict = ReceiveAll(fd, from);
  if (send(fd, &verdict, sizeof(verdict), MSG_NOSIGNAL) != sizeof(verdict))
    Fail(from + ": verdict");
}

// Every datagram that is there goes back to its sender.
void SendBack(int fd) {
  std::array<char, 2048> datagram;
  sockaddr_storage from;
  while (true) {
    socklen_t length = sizeof(from);
    const ssize_t got = recvfrom(fd, datagram.data(), datagram.size(), MSG_DONTWAIT,
                                 reinterpret_cast<sockaddr*>(&from), &length);
    if (got < 0) return;
    sendto(fd, datagram.data(), static_cast<size_t>(got), MSG_NOSIGNAL,
           reinterpret_cast<const sockaddr*>(&from), length);
  }
}

int Serve(const std::vector<Address>& addresses) {
  std::vector<pollfd> listeners;
  for (const Address& address : addresses) {
    const int fd = Open(address);
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    Bind(fd, address);
    if (address.type != SOCK_DGRAM && listen(fd, 16) != 0) Fail(address.text + ": listen");
    listeners.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  }
  signal(SIGCHLD, SIG_IGN);
  std::printf("stream: serving\n");
  std::fflush(stdout);
  while (true) {
    if (poll(listeners.data(), listeners.size(), -1) < 0 && errno != EINTR) Fail("poll");
    for (size_t i = 0; i < listeners.size(); ++i) {
      if ((listeners[i].revents & POLLIN) == 0) continue;
      if (addresses[i].type == SOCK_DGRAM) {
        SendBack(listeners[i].fd);
        continue;
      }
      const int fd = accept4(listeners[i].fd, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      if (fork() == 0) {
        // Not to outlive the server, nor to keep its addresses.
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (const pollfd& listener : listeners) close(listener.fd);
        const timeval limit = {.tv_sec = kSilenceLimitS, .tv_usec = 0};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
        Receive(fd, addresses[i].text);
        _exit(0);
      }
      close(fd);
    }
  }
}

int Send(const Address& to, uint64_t byte_limit, size_t chunk_bytes) {
  const int fd = Open(to);
  if (connect(fd, Raw(to), to.length) != 0) Fail(to.text + ": connect");
  SayHello(fd, to);
  const auto start = std::chrono::steady_clock::now();
  const uint64_t sent = SendAll(fd, to.text, byte_limit, chunk_bytes);
  Verdict verdict = {};
  size_t have = 0;
  while (have < sizeof(verdict)) {
    const ssize_t got =
        recv(fd, reinterpret_cast<char*>(&verdict) + have, sizeof(verdict) - have, 0);
    if (got == 0) errno = ECONNRESET;
    if (got <= 0) Fail(to.text + ": no verdict after " + std::to_string(sent) + " bytes");
    have += static_cast<size_t>(got);
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const bool verified = verdict.byte_count == sent && verdict.first_wrong_offset == kNoneWrong;
  std::printf("bytes=%llu seconds=%.3f MBps=%.2f verified=%s\n",
              static_cast<unsigned long long>(sent), took.count(),
              static_cast<double>(sent) / 1e6 / took.count(), verified ? "yes" : "no");
  if (verified) return 0;
  std::fprintf(stderr, "stream: the peer counted %llu bytes; first wrong offset: %s\n",
               static_cast<unsigned long long>(verdict.byte_count),
               verdict.first_wrong_offset == kNoneWrong
                   ? "none"
                   : std::to_string(verdict.first_wrong_offset).c_str());
  return 1;
}

// Datagrams under way at once. A machine that stood still for a second would else be sent a
// second's worth in one burst, which overflows the queues of any network.
constexpr uint64_t kWindow = 64;
// After this without an answer, those under way are taken for lost.
constexpr auto kAnswerLimit = std::chrono::seconds(1);

// Numbered datagrams at a fixed rate, or slower where the answers are; what comes back is compared
// with what went.
int Ping(const Address& to, uint64_t rate) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kLastWait = std::chrono::seconds(30);
  const int fd = Open(to);
  if (connect(fd, Raw(to), to.length) != 0) Fail(to.text + ": connect");
  std::vector<bool> seen;
  uint64_t back = 0;
  uint64_t twice = 0;
  uint64_t reordered = 0;
  uint64_t highest = 0;
  uint64_t answered = 0;  // all before are, or are lost
  Clock::duration longest_gap{};
  const Clock::duration interval =
      std::chrono::nanoseconds(1'000'000'000 / static_cast<int64_t>(rate));
  Clock::time_point due = Clock::now();
  Clock::time_point last = due;
  Clock::time_point stopped_at{};
  while (true) {
    const Clock::time_point now = Clock::now();
    const bool sending = g_stop == 0;
    if (!sending && stopped_at == Clock::time_point{}) stopped_at = now;
    if (!sending && (back == seen.size() || now - stopped_at > kLastWait)) break;
    if (seen.size() - answered >= kWindow && now - last > kAnswerLimit) {
      longest_gap = std::max(longest_gap, now - last);
      answered = seen.size();
      last = due = now;
    }
    const bool has_room = seen.size() - answered < kWindow;
    if (sending && has_room && now >= due) {
      due += interval;
      const uint64_t number = seen.size();
      if (send(fd, &number, sizeof(number), MSG_NOSIGNAL) != sizeof(number)) {
        Fail(to.text + ": send " + std::to_string(number));
      }
      seen.push_back(false);
    }
    uint64_t number = 0;
    while (recv(fd, &number, sizeof(number), MSG_DONTWAIT) == sizeof(number)) {
      const Clock::time_point arrived = Clock::now();
      longest_gap = std::max(longest_gap, arrived - last);
      last = arrived;
      if (number >= seen.size() || seen[number]) {
        ++twice;
        continue;
      }
      seen[number] = true;
      ++back;
      if (number < highest) ++reordered;
      highest = std::max(highest, number);
      answered = highest + 1;
    }
    const Clock::duration next =
        sending && has_room ? due - Clock::now() : std::chrono::milliseconds(10);
    if (next.count() <= 0) continue;
    const timespec wait = {.tv_sec = 0, .tv_nsec = std::min<int64_t>(next.count(), 10'000'000)};
    pollfd readable = {.fd = fd, .events = POLLIN, .revents = 0};
    ppoll(&readable, 1, &wait, nullptr);
  }
  const uint64_t lost = seen.size() - back;
  std::printf("sent=%llu lost=%llu twice=%llu reordered=%llu longest_gap_ms=%.1f\n",
              static_cast<unsigned long long>(seen.size()), static_cast<unsigned long long>(lost),
              static_cast<unsigned long long>(twice), static_cast<unsigned long long>(reordered),
              std::chrono::duration<double, std::milli>(longest_gap).count());
  return lost == 0 && twice == 0 && reordered == 0 && back > 0 ? 0 : 1;
}

// Datagrams, each sent when the one before has come back.
int RoundTrips(const Address& to, uint64_t count) {
  using Clock = std::chrono::steady_clock;
  const int fd = Open(to);
  if (connect(fd, Raw(to), to.length) != 0) Fail(to.text + ": connect");
  const timeval limit = {.tv_sec = 1, .tv_usec = 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  std::vector<double> us;
  uint64_t lost = 0;
  constexpr uint64_t kWarm = 50;
  for (uint64_t number = 0; number < count + kWarm; ++number) {
    const Clock::time_point start = Clock::now();
    if (send(fd, &number, sizeof(number), MSG_NOSIGNAL) != sizeof(number)) Fail(to.text + ": send");
    uint64_t answer = 0;
    ssize_t got;
    do {  // Late ones are passed over.
      got = recv(fd, &answer, sizeof(answer), 0);
    } while (got == sizeof(answer) && answer != number);
    if (got != sizeof(answer)) {
      ++lost;
    } else if (number >= kWarm) {
      us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
  }
  if (us.empty()) Fail(to.text + ": no answer");
  std::sort(us.begin(), us.end());
  const auto quantile = [&us](double q) {
    return us[static_cast<size_t>(q * static_cast<double>(us.size() - 1))];
  };
  std::printf("count=%zu p50_us=%.1f p90_us=%.1f p99_us=%.1f lost=%llu\n", us.size(), quantile(0.5),
              quantile(0.9), quantile(0.99), static_cast<unsigned long long>(lost));
  return 0;
}

void StopOnTerm() {
  // Without SA_RESTART: a send that waits for a silent peer must come back.
  struct sigaction action = {};
  action.sa_handler = [](int) { g_stop = 1; };
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  const std::string verb = words.empty() ? "" : words[0];
  if (verb == "serve" && words.size() >= 2) {
    std::vector<Address> addresses;
    for (size_t i = 1; i < words.size(); ++i) addresses.push_back(ParseAddress(words[i]));
    return Serve(addresses);
  }
  const auto chunk_bytes = [&words](size_t index) -> size_t {
    return std::min<uint64_t>(words.size() > index ? ParseNumber(words[index]) : kBlockBytes,
                              kBlockBytes);
  };
  if (verb == "send" && words.size() >= 3) {
    return Send(ParseAddress(words[1]), ParseNumber(words[2]), chunk_bytes(3));
  }
  if (verb == "send-until-term" && words.size() >= 2) {
    StopOnTerm();
    return Send(ParseAddress(words[1]), kNoneWrong, chunk_bytes(2));
  }
  if (verb == "ping-until-term" && words.size() == 3) {
    StopOnTerm();
    return Ping(ParseAddress(words[1]), std::max<uint64_t>(ParseNumber(words[2]), 1));
  }
  if (verb == "round-trips" && words.size() == 3) {
    return RoundTrips(ParseAddress(words[1]), std::max<uint64_t>(ParseNumber(words[2]), 1));
  }
  std::fputs(kHelp.data(), verb == "--help" ? stdout : stderr);
  return verb == "--help" ? 0 : 2;
}
