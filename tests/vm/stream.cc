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
#include <sys/socket.h>
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

ADDRESS: tcp:IP:PORT, vsock:CID:PORT or seqpacket:CID:PORT; the CID of the host is 2, a server's is `any`.
A sender prints: bytes=N seconds=S MBps=R verified=yes. Exit code 0 when the peer has confirmed every byte.
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
};

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
  if (kind == "tcp") {
    address.family = AF_INET;
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
  } else {
    std::fprintf(stderr, "stream: '%s' is neither tcp, vsock nor seqpacket\n", kind.c_str());
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
  return fd;
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

int Serve(const std::vector<Address>& addresses) {
  std::vector<pollfd> listeners;
  for (const Address& address : addresses) {
    const int fd = Open(address);
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, Raw(address), address.length) != 0) Fail(address.text + ": bind");
    if (listen(fd, 16) != 0) Fail(address.text + ": listen");
    listeners.push_back({.fd = fd, .events = POLLIN, .revents = 0});
  }
  signal(SIGCHLD, SIG_IGN);
  std::printf("stream: serving\n");
  std::fflush(stdout);
  while (true) {
    if (poll(listeners.data(), listeners.size(), -1) < 0 && errno != EINTR) Fail("poll");
    for (size_t i = 0; i < listeners.size(); ++i) {
      if ((listeners[i].revents & POLLIN) == 0) continue;
      const int fd = accept4(listeners[i].fd, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      if (fork() == 0) {
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
    // Without SA_RESTART: a send that waits for a silent peer must come back.
    struct sigaction action = {};
    action.sa_handler = [](int) { g_stop = 1; };
    sigaction(SIGTERM, &action, nullptr);
    return Send(ParseAddress(words[1]), kNoneWrong, chunk_bytes(2));
  }
  std::fputs(kHelp.data(), verb == "--help" ? stdout : stderr);
  return verb == "--help" ? 0 : 2;
}
