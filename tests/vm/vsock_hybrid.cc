// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// LD_PRELOAD library: lets a program of the host that speaks AF_VSOCK, the host half of the
// kernel's vsock tests above all, speak to a guest whose vsock is served by a process (unix
// sockets, see docs/vsock-in-process.md).
//
//   VSOCK_HYBRID_PATH=/run/vm/v.sock VSOCK_HYBRID_CID=42 LD_PRELOAD=libvsock_hybrid.so PROGRAM
//
// A socket of AF_VSOCK is a unix one from the beginning. connect(2) to the guest's CID says CONNECT
// at PATH (PATH.seqpacket) and reads the answer; listen(2) listens at PATH_<port>. What unix
// sockets cannot tell is made up (the guest's port in accept(2)) or kept and given back (the buffer
// sizes of AF_VSOCK), and does nothing. tests/vm/vsock_hybrid.py lists what that leaves out.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

// The words of AF_VSOCK; <linux/*> is for kernel-abi alone, and this is linked with nothing.
struct sockaddr_vm {
  uint16_t family;
  uint16_t reserved;
  uint32_t port;
  uint32_t cid;
  uint8_t zero[4];
};
static_assert(sizeof(sockaddr_vm) == 16);

namespace {

constexpr uint64_t kDefaultBuffer = 256 * 1024;
constexpr uint32_t kHostCid = 2;

struct Hybrid {
  int type = SOCK_STREAM;
  uint32_t port = 0;       // as bound
  uint32_t peer_port = 0;  // as connected
  std::string listens_at;
  std::map<int, uint64_t> options;  // of level AF_VSOCK
};

std::mutex mutex;
std::map<int, Hybrid>& Sockets() {
  static auto* sockets = new std::map<int, Hybrid>;  // outlives everything, as fds do
  return *sockets;
}
// nullptr: not one of ours.
Hybrid* Find(int fd) {
  const auto found = Sockets().find(fd);
  return found == Sockets().end() ? nullptr : &found->second;
}

template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

std::string Path() {
  const char* path = getenv("VSOCK_HYBRID_PATH");
  return path == nullptr ? "" : path;
}
uint32_t GuestCid() {
  const char* cid = getenv("VSOCK_HYBRID_CID");
  return cid == nullptr ? 0 : static_cast<uint32_t>(strtoul(cid, nullptr, 10));
}

int Fail(int error) {
  errno = error;
  return -1;
}

sockaddr_un Address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  return address;
}

void Tell(uint32_t cid, uint32_t port, sockaddr* address, socklen_t* length) {
  if (address == nullptr || length == nullptr) return;
  sockaddr_vm vm{};
  vm.family = AF_VSOCK;
  vm.cid = cid;
  vm.port = port;
  memcpy(address, &vm, *length < sizeof(vm) ? *length : sizeof(vm));
  *length = sizeof(vm);
}

// The guest's answer to CONNECT: true if it accepted.
bool Accepted(int fd, int type) {
  char line[32];
  if (type == SOCK_SEQPACKET) {
    const ssize_t count = recv(fd, line, sizeof(line), 0);
    return count > 2 && memcmp(line, "OK", 2) == 0;
  }
  for (size_t i = 0; i < sizeof(line); ++i) {
    if (recv(fd, &line[i], 1, 0) != 1) return false;
    if (line[i] == '\n') return memcmp(line, "OK", 2) == 0;
  }
  return false;
}

}  // namespace

extern "C" {

int socket(int domain, int type, int protocol) {
  auto* next = Next<int(int, int, int)>("socket");
  const int kind = type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (domain != AF_VSOCK || (kind != SOCK_STREAM && kind != SOCK_SEQPACKET) || Path().empty()) {
    return next(domain, type, protocol);
  }
  const int fd = next(AF_UNIX, type, 0);
  if (fd >= 0) {
    const std::lock_guard lock(mutex);
    Sockets()[fd] = Hybrid{.type = kind, .listens_at = {}, .options = {}};
  }
  return fd;
}

int bind(int fd, const sockaddr* address, socklen_t length) {
  const std::lock_guard lock(mutex);
  Hybrid* hybrid = Find(fd);
  if (hybrid == nullptr)
    return Next<int(int, const sockaddr*, socklen_t)>("bind")(fd, address, length);
  if (length < sizeof(sockaddr_vm)) return Fail(EINVAL);
  sockaddr_vm vm;
  memcpy(&vm, address, sizeof(vm));
  hybrid->port = vm.port;
  return 0;
}

int listen(int fd, int backlog) {
  const std::lock_guard lock(mutex);
  auto* next = Next<int(int, int)>("listen");
  Hybrid* hybrid = Find(fd);
  if (hybrid == nullptr) return next(fd, backlog);
  const std::string path = Path() + "_" + std::to_string(hybrid->port);
  unlink(path.c_str());
  const sockaddr_un address = Address(path);
  if (Next<int(int, const sockaddr*, socklen_t)>("bind")(
          fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return -1;
  }
  hybrid->listens_at = path;
  return next(fd, backlog);
}

int connect(int fd, const sockaddr* address, socklen_t length) {
  auto* next = Next<int(int, const sockaddr*, socklen_t)>("connect");
  int type;
  sockaddr_vm vm;
  {
    const std::lock_guard lock(mutex);
    Hybrid* hybrid = Find(fd);
    if (hybrid == nullptr) return next(fd, address, length);
    if (length < sizeof(vm)) return Fail(EINVAL);
    memcpy(&vm, address, sizeof(vm));
    if (vm.cid != GuestCid()) return Fail(ENODEV);
    hybrid->peer_port = vm.port;
    type = hybrid->type;
  }
  // A new socket each time: one that was refused cannot connect again.
  const int made = Next<int(int, int, int)>("socket")(AF_UNIX, type | SOCK_CLOEXEC, 0);
  if (made < 0) return -1;
  const sockaddr_un at = Address(Path() + (type == SOCK_SEQPACKET ? ".seqpacket" : ""));
  const std::string line = "CONNECT " + std::to_string(vm.port) + "\n";
  int error = 0;
  if (next(made, reinterpret_cast<const sockaddr*>(&at), sizeof(at)) != 0) {
    error = errno;
  } else if (send(made, line.data(), line.size(), MSG_NOSIGNAL) !=
                 static_cast<ssize_t>(line.size()) ||
             !Accepted(made, type)) {
    error = ECONNRESET;
  } else {
    const int flags = fcntl(fd, F_GETFL);
    if (dup2(made, fd) < 0) error = errno;
    fcntl(fd, F_SETFL, flags);
  }
  Next<int(int)>("close")(made);
  return error == 0 ? 0 : Fail(error);
}

int accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
  auto* next = Next<int(int, sockaddr*, socklen_t*, int)>("accept4");
  int type;
  {
    const std::lock_guard lock(mutex);
    Hybrid* hybrid = Find(fd);
    if (hybrid == nullptr) return next(fd, address, length, flags);
    type = hybrid->type;
  }
  const int accepted = next(fd, nullptr, nullptr, flags);
  if (accepted < 0) return -1;
  Tell(GuestCid(), 1024, address, length);
  const std::lock_guard lock(mutex);
  Sockets()[accepted] = Hybrid{.type = type, .peer_port = 1024, .listens_at = {}, .options = {}};
  return accepted;
}
int accept(int fd, sockaddr* address, socklen_t* length) { return accept4(fd, address, length, 0); }

int close(int fd) {
  {
    const std::lock_guard lock(mutex);
    if (Hybrid* hybrid = Find(fd); hybrid != nullptr) {
      if (!hybrid->listens_at.empty()) unlink(hybrid->listens_at.c_str());
      Sockets().erase(fd);
    }
  }
  return Next<int(int)>("close")(fd);
}

int getsockname(int fd, sockaddr* address, socklen_t* length) {
  const std::lock_guard lock(mutex);
  Hybrid* hybrid = Find(fd);
  if (hybrid == nullptr) {
    return Next<int(int, sockaddr*, socklen_t*)>("getsockname")(fd, address, length);
  }
  Tell(kHostCid, hybrid->port, address, length);
  return 0;
}

int getpeername(int fd, sockaddr* address, socklen_t* length) {
  const std::lock_guard lock(mutex);
  Hybrid* hybrid = Find(fd);
  if (hybrid == nullptr) {
    return Next<int(int, sockaddr*, socklen_t*)>("getpeername")(fd, address, length);
  }
  Tell(GuestCid(), hybrid->peer_port, address, length);
  return 0;
}

int setsockopt(int fd, int level, int option, const void* value, socklen_t length) {
  const std::lock_guard lock(mutex);
  Hybrid* hybrid = Find(fd);
  if (hybrid == nullptr || level != AF_VSOCK) {
    return Next<int(int, int, int, const void*, socklen_t)>("setsockopt")(fd, level, option, value,
                                                                          length);
  }
  uint64_t kept = 0;
  memcpy(&kept, value, length < sizeof(kept) ? length : sizeof(kept));
  hybrid->options[option] = kept;
  return 0;
}

int getsockopt(int fd, int level, int option, void* value, socklen_t* length) {
  const std::lock_guard lock(mutex);
  Hybrid* hybrid = Find(fd);
  if (hybrid == nullptr || level != AF_VSOCK) {
    return Next<int(int, int, int, void*, socklen_t*)>("getsockopt")(fd, level, option, value,
                                                                     length);
  }
  const auto found = hybrid->options.find(option);
  const uint64_t kept = found == hybrid->options.end() ? kDefaultBuffer : found->second;
  if (*length > sizeof(kept)) *length = sizeof(kept);
  memcpy(value, &kept, *length);
  return 0;
}

}  // extern "C"
