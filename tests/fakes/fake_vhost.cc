// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "tests/fakes/fake_vhost.h"

#include <unistd.h>

#include <cerrno>

#include "tests/fakes/fake_tun.h"
#include "tests/fakes/user_memory.h"

namespace fakes {
namespace {

using namespace kernel_abi;  // NOLINT: the requests, by their names

// What the handlers of one level answer where the next level is to be asked (ENOIOCTLCMD).
constexpr int kNotMine = -515;

constexpr uint64_t Bit(unsigned bit) { return uint64_t{1} << bit; }

constexpr uint64_t kAnyVhostFeatures =
    Bit(24) | Bit(28) | Bit(29) | Bit(kVhostFLogAll) | Bit(27) | Bit(32);
constexpr unsigned kMrgRxbuf = 15;
constexpr unsigned kAccessPlatform = 33;
constexpr unsigned kInOrder = 35;
constexpr unsigned kRingReset = 40;
constexpr unsigned kSeqpacket = 1;
// NET_F_{GUEST,HOST}_UDP_TUNNEL_GSO, which are bits 65 and 67 of the feature array.
constexpr uint64_t kTunnelFeatures = Bit(1) | Bit(3);

uint64_t OfferedFeatures(FakeVhost::Kind kind, const FakeKernelOptions& options) {
  if (kind == FakeVhost::Kind::kVsock) {
    return kAnyVhostFeatures | Bit(kAccessPlatform) | Bit(kSeqpacket);
  }
  uint64_t features = kAnyVhostFeatures | Bit(kMrgRxbuf) | Bit(kAccessPlatform);
  if (AtLeast(options, 6, 2)) features |= Bit(kRingReset);
  if (AtLeast(options, 6, 17)) features |= Bit(kInOrder);
  return features;
}

uint64_t OfferedHighFeatures(FakeVhost::Kind kind) {
  return kind == FakeVhost::Kind::kNet ? kTunnelFeatures : 0;
}

constexpr uint64_t kOfferedBackendFeatures = Bit(kVhostBackendFIotlbMsgV2);

}  // namespace

FakeVhost::FakeVhost(FakeWorld& world, Kind kind) : world_(world), kind_(kind) { ResetVrings(); }

FakeVhost::~FakeVhost() {
  if (guest_cid_ != 0) world_.guest_cids().erase(guest_cid_);
}

void FakeVhost::ResetVrings() {
  for (Vring& vring : vrings_) vring = Vring();
  features_ = features_high_ = backend_features_ = 0;
}

int FakeVhost::CheckOwner() const { return owner_ == ::getpid() ? 0 : -EPERM; }

// ---- The device's own requests first, then those of every vhost device, then the vrings' -------

int FakeVhost::Ioctl(unsigned long request, uintptr_t argument) {
  int result = FeatureWords(request, argument);
  if (result != kNotMine) return result;
  if (kind_ == Kind::kNet) {
    result = FeatureArrays(request, argument);
    if (result != kNotMine) return result;
    if (request == kVhostNetSetBackend.number) return SetBackend(argument);
    if (request == kVhostResetOwner.number) return ResetOwner();
  } else {
    if (request == kVhostVsockSetGuestCid.number) return SetGuestCid(argument);
    if (request == kVhostVsockSetRunning.number) return SetRunning(argument);
  }
  result = DeviceRequest(request, argument);
  return result == kNotMine ? VringRequest(request, argument) : result;
}

int FakeVhost::FeatureWords(unsigned long request, uintptr_t argument) {
  uint64_t word = 0;
  if (request == kVhostGetFeatures.number) {
    return Put(argument, OfferedFeatures(kind_, world_.options()));
  }
  if (request == kVhostSetFeatures.number) {
    if (Get(&word, argument) != 0) return -EFAULT;
    if ((word & ~OfferedFeatures(kind_, world_.options())) != 0) return -EOPNOTSUPP;
    return SetFeatures(word, 0);
  }
  if (request == kVhostGetBackendFeatures.number) return Put(argument, kOfferedBackendFeatures);
  if (request == kVhostSetBackendFeatures.number) {
    if (Get(&word, argument) != 0) return -EFAULT;
    if ((word & ~kOfferedBackendFeatures) != 0) return -EOPNOTSUPP;
    backend_features_ = word;
    return 0;
  }
  return kNotMine;
}

int FakeVhost::FeatureArrays(unsigned long request, uintptr_t argument) {
  if (!AtLeast(world_.options(), 6, 17)) return kNotMine;
  const bool get = request == kVhostGetFeaturesArray.number;
  if (!get && request != kVhostSetFeaturesArray.number) return kNotMine;
  const uint64_t offered[2] = {OfferedFeatures(kind_, world_.options()),
                               OfferedHighFeatures(kind_)};
  uint64_t count = 0;
  if (Get(&count, argument) != 0) return -EFAULT;
  for (uint64_t i = 0; i < count; ++i) {
    const uintptr_t at = argument + sizeof(count) * (i + 1);
    if (get && Put(at, i < 2 ? offered[i] : uint64_t{0}) != 0) return -EFAULT;
  }
  if (get) return 0;
  uint64_t words[2] = {0, 0};
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t word = 0;
    if (Get(&word, argument + sizeof(count) * (i + 1)) != 0) return -EFAULT;
    if ((word & ~(i < 2 ? offered[i] : uint64_t{0})) != 0) return -EOPNOTSUPP;
    if (i < 2) words[i] = word;
  }
  return SetFeatures(words[0], words[1]);
}

int FakeVhost::SetFeatures(uint64_t low, uint64_t high) {
  if ((low & Bit(kVhostFLogAll)) != 0) {
    for (const Vring& vring : vrings_) {
      if (vring.running && !MemoryAccessOk(memory_, vring.log_base, true)) return -EFAULT;
    }
  }
  if ((low & Bit(kAccessPlatform)) != 0) {
    if (world_.options().max_iotlb_entries <= 0) return -EFAULT;
    has_iotlb_ = true;
    iotlb_.clear();  // Each time anew.
  } else if (AtLeast(world_.options(), 6, 12)) {
    has_iotlb_ = false;  // Older kernels leave it on until RESET_OWNER or the last close.
    iotlb_.clear();
  }
  features_ = low;
  features_high_ = high;
  return 0;
}

int FakeVhost::SetOwner() {
  if (owner_ != 0) return -EBUSY;
  if (!world_.options().worker_can_start) return -ENOMEM;
  owner_ = ::getpid();
  return 0;
}

int FakeVhost::ResetOwner() {
  if (const int result = CheckOwner(); result != 0) return result;
  owner_ = 0;
  fork_mode_ = ForkMode::kOwnerTask;
  ResetVrings();
  log_fd_.Reset();
  // Not none, but an empty one: SET_BACKEND(-1) succeeds from here on.
  memory_.clear();
  has_memory_ = true;
  has_iotlb_ = false;
  iotlb_.clear();
  return 0;
}

int FakeVhost::ForkFromOwner(unsigned long request, uintptr_t argument) {
  if (!AtLeast(world_.options(), 6, 12) || !world_.options().fork_owner_control) return kNotMine;
  if (request == kVhostGetForkFromOwner.number) return Put(argument, fork_mode_);
  if (request != kVhostSetForkFromOwner.number) return kNotMine;
  if (owner_ != 0) return -EBUSY;
  uint8_t mode = 0;
  if (Get(&mode, argument) != 0) return -EFAULT;
  if (mode > 1) return -EINVAL;
  fork_mode_ = static_cast<ForkMode>(mode);
  return 0;
}

int FakeVhost::DeviceRequest(unsigned long request, uintptr_t argument) {
  if (request == kVhostSetOwner.number) return SetOwner();
  if (const int result = ForkFromOwner(request, argument); result != kNotMine) return result;
  if (const int result = CheckOwner(); result != 0) return result;
  if (request == kVhostSetMemTable.number) return SetMemoryTable(argument);
  if (request == kVhostSetLogBase.number) return SetLogBase(argument);
  if (request == kVhostSetLogFd.number) {
    int fd = -1;
    if (Get(&fd, argument) != 0) return -EFAULT;
    if (const int result = fd == -1 ? 0 : CheckEventFd(fd); result != 0) return result;
    log_fd_ = fd == -1 ? UniqueFd() : Hold(fd);
    return 0;
  }
  return kNotMine;
}

// ---- Vrings ------------------------------------------------------------------------------------

int FakeVhost::VringRequest(unsigned long request, uintptr_t argument) {
  // First of all an index is read, whatever the request: this is why unknown ones answer EFAULT.
  uint32_t index = 0;
  if (Get(&index, argument) != 0) return -EFAULT;
  if (index >= kVrings) return -ENOBUFS;
  Vring& vring = vrings_[index];
  vhost_vring_state state = {};

  if (request == kVhostSetVringNum.number) {
    if (vring.running) return -EBUSY;
    if (Get(&state, argument) != 0) return -EFAULT;
    if (state.num == 0 || state.num > 0xffff || (state.num & (state.num - 1)) != 0) return -EINVAL;
    vring.num = state.num;
    return 0;
  }
  if (request == kVhostSetVringBase.number) {
    if (vring.running) return -EBUSY;
    if (Get(&state, argument) != 0) return -EFAULT;
    if (state.num > 0xffff) return -EINVAL;
    vring.last_avail = static_cast<uint16_t>(state.num);
    return 0;
  }
  if (request == kVhostGetVringBase.number) {
    return Put(argument, vhost_vring_state{.index = index, .num = vring.last_avail});
  }
  if (request == kVhostSetVringAddr.number) return SetVringAddress(vring, argument);
  if (request == kVhostSetVringKick.number || request == kVhostSetVringCall.number ||
      request == kVhostSetVringErr.number) {
    return SetVringFile(request, vring, argument);
  }
  if (request == kVhostSetVringBusyloopTimeout.number) {
    if (Get(&state, argument) != 0) return -EFAULT;
    vring.busyloop_us = state.num;
    return 0;
  }
  if (request == kVhostGetVringBusyloopTimeout.number) {
    return Put(argument, vhost_vring_state{.index = index, .num = vring.busyloop_us});
  }
  return VringEndian(request, vring, argument);
}

int FakeVhost::SetVringAddress(Vring& vring, uintptr_t argument) {
  vhost_vring_addr address = {};
  if (Get(&address, argument) != 0) return -EFAULT;
  if ((address.flags & ~kVhostVringFLog) != 0) return -EOPNOTSUPP;
  if (address.avail_user_addr % 2 != 0 || address.used_user_addr % 4 != 0 ||
      address.log_guest_addr % 4 != 0) {
    return -EINVAL;
  }
  const bool log_used = (address.flags & kVhostVringFLog) != 0;
  if (vring.running) {  // Otherwise nobody asks before the start.
    Vring moved;
    moved.num = vring.num;
    moved.log_base = vring.log_base;
    moved.desc = address.desc_user_addr;
    moved.avail = address.avail_user_addr;
    moved.used = address.used_user_addr;
    if (!VringMemoryOk(moved) || !LogUsedAccessOk(moved, log_used, address.log_guest_addr)) {
      return -EINVAL;
    }
  }
  vring.desc = address.desc_user_addr;
  vring.avail = address.avail_user_addr;
  vring.used = address.used_user_addr;
  vring.log_used = log_used;
  vring.log_address = address.log_guest_addr;
  return 0;
}

int FakeVhost::SetVringFile(unsigned long request, Vring& vring, uintptr_t argument) {
  vhost_vring_file file = {};
  if (Get(&file, argument) != 0) return -EFAULT;
  UniqueFd held;
  if (file.fd != -1) {
    if (const int result = CheckEventFd(file.fd); result != 0) return result;
    held = Hold(file.fd);
    if (!held.valid()) return -EMFILE;
  }
  UniqueFd& slot = request == kVhostSetVringKick.number   ? vring.kick
                   : request == kVhostSetVringCall.number ? vring.call
                                                          : vring.error;
  slot = std::move(held);
  return 0;
}

int FakeVhost::VringEndian(unsigned long request, Vring& vring, uintptr_t argument) {
  constexpr int kUnknown = -ENOTTY;
  const bool set = request == kVhostSetVringEndian.number;
  if (!set && request != kVhostGetVringEndian.number) return kUnknown;
  if (!world_.options().cross_endian) return kUnknown;
  vhost_vring_state state = {};
  if (Get(&state, argument) != 0) return -EFAULT;
  if (!set) {
    state.num = vring.big_endian ? VHOST_VRING_BIG_ENDIAN : VHOST_VRING_LITTLE_ENDIAN;
    return Put(argument, state);
  }
  if (vring.running) return -EBUSY;
  if (state.num > 1) return -EINVAL;
  vring.big_endian = state.num == VHOST_VRING_BIG_ENDIAN;
  return 0;
}

// ---- Start and stop ----------------------------------------------------------------------------

int FakeVhost::SetBackend(uintptr_t argument) {
  vhost_vring_file file = {};
  if (Get(&file, argument) != 0) return -EFAULT;
  if (const int result = CheckOwner(); result != 0) return result;
  if (file.index >= kVrings) return -ENOBUFS;
  Vring& vring = vrings_[file.index];
  if (!VringAccessOk(vring)) return -EFAULT;
  if (file.fd == -1) {
    vring.running = false;
    vring.backend_file.Reset();
    return 0;
  }
  auto* tap = dynamic_cast<FakeTun*>(world_.Find(file.fd));
  if (tap == nullptr) return -ENOTSOCK;
  if (vring.running && world_.Find(vring.backend_file.get()) == tap) return 0;
  if (const int result = InitAccess(vring); result != 0) return result;
  // Polling a queue that no interface has reports an error at once.
  if (!tap->attached()) return -EINVAL;
  vring.backend_file = Hold(file.fd);
  vring.running = true;
  return 0;
}

int FakeVhost::SetGuestCid(uintptr_t argument) {
  uint64_t cid = 0;
  if (Get(&cid, argument) != 0) return -EFAULT;
  if (cid <= 2 || cid >= 0xffffffff) return -EINVAL;
  if (world_.options().local_cids.contains(cid)) return -EADDRINUSE;
  const auto taken = world_.guest_cids().find(cid);
  if (taken != world_.guest_cids().end() && taken->second != this) return -EADDRINUSE;
  if (guest_cid_ != 0) world_.guest_cids().erase(guest_cid_);
  guest_cid_ = cid;
  world_.guest_cids()[cid] = this;
  return 0;
}

int FakeVhost::SetRunning(uintptr_t argument) {
  int run = 0;
  if (Get(&run, argument) != 0) return -EFAULT;
  if (const int result = CheckOwner(); result != 0) return result;
  int result = 0;
  for (Vring& vring : vrings_) {
    if (run == 0) {
      vring.running = false;
      continue;
    }
    if (!VringAccessOk(vring)) {
      result = -EFAULT;
    } else if (!vring.running) {
      result = InitAccess(vring);
      vring.running = true;
    }
    if (result != 0) {
      for (Vring& all : vrings_) all.running = false;
      return result;
    }
  }
  return 0;
}

// ---- For tests ---------------------------------------------------------------------------------

bool FakeVhost::Work(unsigned index, uint16_t avail) {
  Vring& vring = vrings_.at(index);
  if (!vring.running) return false;
  const uint16_t done = static_cast<uint16_t>(avail - vring.last_avail);
  vring.last_avail = avail;
  vring.last_used = static_cast<uint16_t>(vring.last_used + done);
  if (Put(Translate(vring.used) + 2, vring.last_used) != 0) return RaiseError(index);
  Signal(vring.call.get());
  return true;
}

bool FakeVhost::RaiseError(unsigned index) {
  const Vring& vring = vrings_.at(index);
  if (!vring.error.valid()) return false;
  Signal(vring.error.get());
  return true;
}

bool FakeVhost::TakeKick(unsigned index) { return TakeSignal(vrings_.at(index).kick.get()); }

void FakeVhost::Count(OpenState& state) const {
  ++state.vhost_nodes;
  state.guest_cids += guest_cid_ != 0;
  state.held_fds += log_fd_.valid();
  for (const Vring& vring : vrings_) {
    state.attached_backends += vring.running;
    for (const UniqueFd* held : {&vring.kick, &vring.call, &vring.error, &vring.backend_file}) {
      state.held_fds += held->valid();
    }
  }
}

}  // namespace fakes
