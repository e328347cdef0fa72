// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "tests/fakes/fake_kernel.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace fakes {
namespace {

ino_t InodeOf(int fd) {
  struct stat status = {};
  return ::fstat(fd, &status) == 0 ? status.st_ino : 0;
}

bool IsSocket(int fd) {
  struct stat status = {};
  return ::fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

bool HasHungUp(int far_end) {
  pollfd waiting{.fd = far_end, .events = 0, .revents = 0};
  return ::poll(&waiting, 1, 0) == 1 && (waiting.revents & POLLHUP) != 0;
}

// A file that holds a module parameter, as sysfs shows it.
int OpenText(const std::string& text) {
  const int fd = ::memfd_create("sysfs", MFD_CLOEXEC);
  if (fd < 0) return -errno;
  (void)!::write(fd, text.data(), text.size());
  ::lseek(fd, 0, SEEK_SET);
  return fd;
}

}  // namespace

FakeKernel::FakeKernel(FakeKernelOptions options) : options_(std::move(options)) {}

FakeKernel::~FakeKernel() {
  // Nodes refer to interfaces, CIDs and each other's files: they go first, outside of the map.
  std::map<ino_t, Description> descriptions;
  {
    absl::MutexLock lock(&mutex_);
    descriptions.swap(descriptions_);
  }
  for (auto& [inode, description] : descriptions) description.node.reset();
}

// ---- Descriptions ------------------------------------------------------------------------------

int FakeKernel::Install(std::unique_ptr<FakeNode> node) {
  mutex_.AssertHeld();
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return -errno;
  descriptions_[InodeOf(ends[0])] = {kernel_abi::UniqueFd(ends[1]), std::move(node),
                                     next_serial_++};
  return ends[0];
}

FakeNode* FakeKernel::Find(int fd) {
  mutex_.AssertHeld();
  if (fd < 0 || !IsSocket(fd)) return nullptr;
  const auto found = descriptions_.find(InodeOf(fd));
  return found == descriptions_.end() ? nullptr : found->second.node.get();
}

void FakeKernel::Reap() {
  for (bool changed = true; changed;) {
    changed = false;
    for (auto it = descriptions_.begin(); it != descriptions_.end(); ++it) {
      if (!HasHungUp(it->second.far_end.get())) continue;
      // Out of the map first: the node's end may look into it.
      Description gone = std::move(it->second);
      descriptions_.erase(it);
      gone.node.reset();
      changed = true;
      break;
    }
  }
}

int FakeKernel::OpenNode(const std::string& path, int flags) {
  const auto error = options_.open_errors.find(path);
  if (error != options_.open_errors.end()) return -error->second;
  const bool any_vhost = options_.vhost_net || options_.vhost_vsock;
  if (path == kernel_abi::kVhostMaxMemRegionsPath) {
    return any_vhost ? OpenText(absl::StrCat(options_.max_mem_regions, "\n")) : -ENOENT;
  }
  if (path == kernel_abi::kVhostMaxIotlbEntriesPath) {
    return any_vhost ? OpenText(absl::StrCat(options_.max_iotlb_entries, "\n")) : -ENOENT;
  }
  FakeWorld& world = *this;
  std::unique_ptr<FakeNode> node;
  if (path == kernel_abi::kVhostNetPath) {
    if (!options_.vhost_net) return -ENOENT;
    node = std::make_unique<FakeVhost>(world, FakeVhost::Kind::kNet);
  } else if (path == kernel_abi::kVhostVsockPath) {
    if (!options_.vhost_vsock) return -ENOENT;
    node = std::make_unique<FakeVhost>(world, FakeVhost::Kind::kVsock);
  } else if (path == kernel_abi::kTunPath) {
    if (!options_.tun) return -ENOENT;
    node = std::make_unique<FakeTun>(world);
  } else if (path == kernel_abi::kKvmPath) {
    if (!options_.kvm) return -ENOENT;
    node = std::make_unique<FakeKvm>(world);
  } else {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
  }
  const int fd = Install(std::move(node));
  if (fd >= 0 && (flags & O_NONBLOCK) != 0) ::fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK);
  return fd;
}

// ---- Calls -------------------------------------------------------------------------------------

int FakeKernel::Fault(const LoggedCall& call) {
  if (planned_.countdown == 0) return 0;
  if (!planned_.request.empty() && planned_.request != call.name) return 0;
  if (--planned_.countdown > 0) return 0;
  fault_met_ = call.Text();
  return planned_.error;
}

template <typename Result, typename Answer>
Result FakeKernel::Logged(LoggedCall call, Answer answer) {
  absl::MutexLock lock(&mutex_);
  Reap();
  const int fault = Fault(call);
  const Result result = fault != 0 ? static_cast<Result>(-fault) : answer();
  call.result = result;
  calls_.push_back(std::move(call));
  return result;
}

int FakeKernel::Open(const char* path, int flags) {
  return Logged<int>({.name = "open", .arguments = path}, [&] {
    mutex_.AssertHeld();
    return OpenNode(path, flags);
  });
}

int FakeKernel::Ioctl(int fd, unsigned long request, uintptr_t argument) {
  return Logged<int>(DecodeIoctl(fd, request, argument), [&] {
    mutex_.AssertHeld();
    if (::fcntl(fd, F_GETFD) < 0) return -EBADF;
    FakeNode* node = Find(fd);
    return node != nullptr ? node->Ioctl(request, argument) : -ENOTTY;
  });
}

int FakeKernel::EventFd(unsigned initial, int flags) {
  return Logged<int>({.name = "eventfd"},
                     [&] { return kernel_abi::LinuxKernel().EventFd(initial, flags); });
}

// A read that blocks in Linux must not hold up the rest of the fake: such calls are made unlocked.
template <typename FakeCall, typename LinuxCall>
ssize_t FakeKernel::Transfer(LoggedCall call, FakeCall in_fake, LinuxCall in_linux) {
  {
    absl::MutexLock lock(&mutex_);
    Reap();
    FakeNode* node = Find(call.fd);
    const int fault = Fault(call);
    if (fault != 0 || (node != nullptr && !node->carries_data())) {
      call.result = fault != 0 ? -fault : in_fake(*node);
      calls_.push_back(call);
      return call.result;
    }
  }
  call.result = in_linux();
  absl::MutexLock lock(&mutex_);
  calls_.push_back(call);
  return call.result;
}

ssize_t FakeKernel::Read(int fd, void* buffer, size_t size) {
  return Transfer(
      {.name = "read", .fd = fd},
      [&](FakeNode& node) {
        return node.Read(buffer, size, (::fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
      },
      [&] { return kernel_abi::LinuxKernel().Read(fd, buffer, size); });
}

ssize_t FakeKernel::Write(int fd, const void* buffer, size_t size) {
  return Transfer(
      {.name = "write", .fd = fd}, [&](FakeNode& node) { return node.Write(buffer, size); },
      [&] { return kernel_abi::LinuxKernel().Write(fd, buffer, size); });
}

int FakeKernel::Duplicate(int fd) {
  return Logged<int>({.name = "dup", .fd = fd},
                     [&] { return kernel_abi::LinuxKernel().Duplicate(fd); });
}

int FakeKernel::MemFd(const char* name, unsigned flags) {
  return Logged<int>({.name = "memfd_create", .arguments = name},
                     [&] { return kernel_abi::LinuxKernel().MemFd(name, flags); });
}

int FakeKernel::Truncate(int fd, off_t size) {
  return Logged<int>({.name = "ftruncate", .arguments = absl::StrCat(size), .fd = fd},
                     [&] { return kernel_abi::LinuxKernel().Truncate(fd, size); });
}

int FakeKernel::Map(size_t size, int protection, int flags, int fd, off_t offset, void** address) {
  return Logged<int>({.name = "mmap", .arguments = absl::StrCat(size), .fd = fd}, [&] {
    return kernel_abi::LinuxKernel().Map(size, protection, flags, fd, offset, address);
  });
}

int FakeKernel::Unmap(void* address, size_t size) {
  return kernel_abi::LinuxKernel().Unmap(address, size);
}

pid_t FakeKernel::ThreadId() { return kernel_abi::LinuxKernel().ThreadId(); }

int FakeKernel::SetAffinity(pid_t tid, const cpu_set_t& cpus) {
  return Logged<int>({.name = "sched_setaffinity", .arguments = absl::StrCat("tid=", tid)},
                     [&] { return kernel_abi::LinuxKernel().SetAffinity(tid, cpus); });
}

int FakeKernel::SetNice(pid_t tid, int nice) {
  return Logged<int>(
      {.name = "setpriority", .arguments = absl::StrCat("tid=", tid, " nice=", nice)},
      [&] { return kernel_abi::LinuxKernel().SetNice(tid, nice); });
}

// ---- For tests ---------------------------------------------------------------------------------

void FakeKernel::FailCall(int k, int error) {
  absl::MutexLock lock(&mutex_);
  planned_ = {.countdown = k, .error = error, .request = {}};
  fault_met_.clear();
}

void FakeKernel::FailRequest(absl::string_view name, int error, int skip) {
  absl::MutexLock lock(&mutex_);
  planned_ = {.countdown = skip + 1, .error = error, .request = std::string(name)};
  fault_met_.clear();
}

bool FakeKernel::FaultMet() const {
  absl::MutexLock lock(&mutex_);
  return !fault_met_.empty();
}

std::string FakeKernel::FaultText() const {
  absl::MutexLock lock(&mutex_);
  return fault_met_;
}

std::vector<LoggedCall> FakeKernel::calls() const {
  absl::MutexLock lock(&mutex_);
  return calls_;
}

void FakeKernel::ClearCalls() {
  absl::MutexLock lock(&mutex_);
  calls_.clear();
}

std::string FakeKernel::CallText() const {
  std::string text;
  for (const LoggedCall& call : calls()) absl::StrAppend(&text, call.Text(), "\n");
  return text;
}

OpenState FakeKernel::Survivors() {
  absl::MutexLock lock(&mutex_);
  Reap();
  OpenState state;
  for (const auto& [inode, description] : descriptions_) description.node->Count(state);
  state.interfaces = static_cast<int>(interfaces_.size());
  return state;
}

FakeVhost* FakeKernel::vhost(int fd) {
  absl::MutexLock lock(&mutex_);
  return dynamic_cast<FakeVhost*>(Find(fd));
}

FakeTun* FakeKernel::tun(int fd) {
  absl::MutexLock lock(&mutex_);
  return dynamic_cast<FakeTun*>(Find(fd));
}

FakeVm* FakeKernel::vm(int fd) {
  absl::MutexLock lock(&mutex_);
  return dynamic_cast<FakeVm*>(Find(fd));
}

template <typename Node>
std::vector<Node*> FakeKernel::InOrder() {
  absl::MutexLock lock(&mutex_);
  Reap();
  std::vector<std::pair<uint64_t, Node*>> found;
  for (const auto& [inode, description] : descriptions_) {
    if (auto* node = dynamic_cast<Node*>(description.node.get())) {
      found.emplace_back(description.serial, node);
    }
  }
  std::sort(found.begin(), found.end());
  std::vector<Node*> nodes;
  for (const auto& [serial, node] : found) nodes.push_back(node);
  return nodes;
}

std::vector<FakeVhost*> FakeKernel::vhosts() { return InOrder<FakeVhost>(); }
std::vector<FakeVm*> FakeKernel::vms() { return InOrder<FakeVm>(); }

int FakeKernel::wire_fd(int fd) {
  absl::MutexLock lock(&mutex_);
  if (dynamic_cast<FakeTun*>(Find(fd)) == nullptr) return -1;
  return descriptions_.at(InodeOf(fd)).far_end.get();
}

void FakeKernel::AddInterface(const std::string& name, unsigned flags) {
  absl::MutexLock lock(&mutex_);
  FakeInterface& interface = interfaces_[name];
  interface.name = name;
  interface.flags = flags | IFF_PERSIST;
}

void FakeKernel::DeleteInterface(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  interfaces_.erase(name);
  for (auto& [inode, description] : descriptions_) {
    auto* tun = dynamic_cast<FakeTun*>(description.node.get());
    if (tun != nullptr && tun->interface_name() == name) tun->ForgetInterface();
  }
}

const FakeInterface* FakeKernel::interface(const std::string& name) {
  absl::MutexLock lock(&mutex_);
  const auto found = interfaces_.find(name);
  return found == interfaces_.end() ? nullptr : &found->second;
}

int CountOpenFds() {
  DIR* directory = ::opendir("/proc/self/fd");
  if (directory == nullptr) return -1;
  int count = 0;
  while (::readdir(directory) != nullptr) ++count;
  ::closedir(directory);
  return count - 3;  // ".", "..", and the directory itself
}

}  // namespace fakes
