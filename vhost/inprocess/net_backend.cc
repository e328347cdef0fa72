// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/inprocess/net_backend.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "kernel-abi/tun.h"
#include "vhost/inprocess/net_pair.h"
#include "vhost/kernel/net_backend.h"

namespace vhost::inprocess {
namespace {

using enum VirtioFeature;

// Of the bits that are about rings and not about a device's type.
constexpr VirtioFeatures kRingFeatures = {kAnyLayout,  kIndirectDesc, kEventIdx, kVersion1,
                                          kRingPacked, kInOrder,      kRingReset};
constexpr VirtioFeatures kToGuestSegmentation = {kNetGuestTso4, kNetGuestTso6, kNetGuestUfo,
                                                 kNetGuestUso4, kNetGuestUso6};
constexpr VirtioFeatures kNoDevice = {kNetGuestUdpTunnelGso, kNetGuestUdpTunnelGsoCsum,
                                      kNetHostUdpTunnelGso, kNetHostUdpTunnelGsoCsum};

constexpr bool IsOfDeviceType(int bit) { return bit < 24 || (bit >= 50 && bit < 64); }

absl::Status MakeNonBlocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) != 0) return absl::OkStatus();
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) {
    return kernel_abi::MakeSystemError({.error = errno,
                                        .subject = "TAP",
                                        .call = "fcntl",
                                        .arguments = absl::StrCat("fd=", fd, " O_NONBLOCK")});
  }
  return absl::OkStatus();
}

}  // namespace

// A pair and the thread that serves it, which goes last.
class InProcessNetBackend::Pair {
 public:
  Pair(std::shared_ptr<DataThread> thread, int tap_fd, std::unique_ptr<FrameRing> ring,
       kernel_abi::EventFd rx_error, kernel_abi::EventFd tx_error)
      : thread_(std::move(thread)),
        net(*thread_, tap_fd, std::move(ring), std::move(rx_error), std::move(tx_error)) {}

 private:
  std::shared_ptr<DataThread> thread_;

 public:
  NetPair net;
};

InProcessNetBackend::InProcessNetBackend(kernel_abi::Kernel& kernel, InProcessNetOptions options)
    : kernel_(kernel), options_(std::move(options)) {}

InProcessNetBackend::~InProcessNetBackend() { Stop(); }

absl::StatusOr<std::unique_ptr<InProcessNetBackend>> InProcessNetBackend::Create(
    kernel_abi::Kernel& kernel, InProcessNetOptions options) {
  if (options.tap_fds.empty()) {
    return absl::InvalidArgumentError("a net backend needs a TAP queue for each queue pair");
  }
  auto backend = absl::WrapUnique(new InProcessNetBackend(kernel, std::move(options)));
  const InProcessNetOptions& with = backend->options_;
  for (size_t pair = 0; pair < with.tap_fds.size(); ++pair) {
    if (absl::Status status = MakeNonBlocking(with.tap_fds[pair]); !status.ok()) {
      return kernel_abi::AddContext(status, absl::StrCat("queue pair ", pair));
    }
    std::shared_ptr<DataThread> thread = with.thread;
    if (thread == nullptr) {
      DataThreadOptions thread_options = with.thread_options;
      if (with.tap_fds.size() > 1) absl::StrAppend(&thread_options.name, "-", pair);
      absl::StatusOr<std::unique_ptr<DataThread>> own =
          DataThread::Create(kernel, std::move(thread_options));
      if (!own.ok()) return own.status();
      thread = *std::move(own);
    }
    absl::StatusOr<kernel_abi::EventFd> rx_error = kernel_abi::EventFd::Create(kernel);
    if (!rx_error.ok()) return rx_error.status();
    absl::StatusOr<kernel_abi::EventFd> tx_error = kernel_abi::EventFd::Create(kernel);
    if (!tx_error.ok()) return tx_error.status();
    const int tap_fd = with.tap_fds[pair];
    backend->pairs_.push_back(std::make_unique<Pair>(std::move(thread), tap_fd,
                                                     backend->MakeRing(tap_fd),
                                                     *std::move(rx_error), *std::move(tx_error)));
  }
  return backend;
}

std::unique_ptr<FrameRing> InProcessNetBackend::MakeRing(int tap_fd) {
  if (options_.io_engine != IoEngine::kIoUring || !io_uring_refused_.ok()) return nullptr;
  absl::StatusOr<std::unique_ptr<FrameRing>> ring = FrameRing::Create(kernel_, tap_fd);
  if (ring.ok()) return *std::move(ring);
  io_uring_refused_ = ring.status();
  return nullptr;
}

VirtioFeatures InProcessNetBackend::Supported(VirtioFeatures wanted) const {
  VirtioFeatures supported;
  for (int bit : (wanted - kNoDevice).bits()) {
    const auto feature = static_cast<VirtioFeature>(bit);
    if (IsOfDeviceType(bit) || kRingFeatures.Has(feature)) supported.Set(feature);
  }
  return supported;
}

absl::Status InProcessNetBackend::CheckMemory(const MemoryTable&) const {
  return absl::OkStatus();  // Any table can be translated by.
}

absl::Status InProcessNetBackend::CheckQueue(int queue) const {
  if (queue >= 0 && queue < queue_count()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("queue ", queue, " is not of the ", queue_count(), " of this backend"));
}

absl::Status InProcessNetBackend::CheckTap(size_t pair, VirtioFeatures acked) const {
  const int fd = options_.tap_fds[pair];
  const kernel_abi::Subject tap{kernel_, fd, "TAP"};
  const auto context = [pair](const absl::Status& status) {
    return kernel_abi::AddContext(status, absl::StrCat("queue pair ", pair));
  };
  ifreq interface {};
  absl::Status status = kernel_abi::Call(tap, kernel_abi::kTunGetIff, interface).status();
  if (!status.ok()) return context(status);
  const std::string name = kernel_abi::InterfaceName(interface);
  if ((interface.ifr_flags & IFF_TAP) == 0 || (interface.ifr_flags & IFF_VNET_HDR) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(name, ": is not a TAP with a packet header (IFF_TAP, IFF_VNET_HDR)"));
  }
  int header_bytes = 0;
  status =
      kernel_abi::Call({kernel_, fd, name}, kernel_abi::kTunGetVnetHdrSz, header_bytes).status();
  if (!status.ok()) return context(status);
  const int wanted = NetBackend::HeaderBytes(acked);
  if (header_bytes == wanted) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(name, ": its packet header has ", header_bytes,
                                                    " bytes, and the features acked want ", wanted,
                                                    ": set it (TUNSETVNETHDRSZ) before the start"));
}

size_t InProcessNetBackend::MostFrameBytes(size_t pair) const {
  const int fd = options_.tap_fds[pair];
  ifreq tap{};
  ifreq mine{};
  if (kernel_.Ioctl(fd, TUNGETIFF, reinterpret_cast<uintptr_t>(&tap)) < 0) return 0;
  if (kernel_.Ioctl(fd, SIOCGIFHWADDR, reinterpret_cast<uintptr_t>(&mine)) < 0) return 0;
  const kernel_abi::UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return 0;
  // An fd of a TAP can come from another network namespace, and its name be another's here.
  ifreq request = tap;
  if (kernel_.Ioctl(socket.get(), SIOCGIFHWADDR, reinterpret_cast<uintptr_t>(&request)) < 0 ||
      std::memcmp(request.ifr_hwaddr.sa_data, mine.ifr_hwaddr.sa_data, 6) != 0) {
    return 0;
  }
  request = tap;
  if (kernel_.Ioctl(socket.get(), SIOCGIFMTU, reinterpret_cast<uintptr_t>(&request)) < 0) return 0;
  return static_cast<size_t>(request.ifr_mtu) + kEthernetBytes + kVlanTagBytes;
}

// ---- Extra offloads of the TAP -----------------------------------------------------------------

// What the TAP had better deliver whole, though the driver does not take it.
unsigned InProcessNetBackend::ExtraOffloads(VirtioFeatures acked) const {
  using namespace kernel_abi;  // NOLINT: names of the field
  // With a TAP that segments by the driver's wish there is little left to win.
  if (acked.Has(kNetGuestTso4) || !options_.set_extra_offloads) return 0;
  unsigned extra = kTunFCsum | kTunFTso4 | kTunFTso6;
  if ((options_.tap_offloads & kTunFUso4) != 0) extra |= kTunFUso4 | kTunFUso6;
  return extra & options_.tap_offloads;
}

absl::Status InProcessNetBackend::SetExtraOffloads(unsigned offloads) {
  if (offloads == extra_offloads_) return absl::OkStatus();
  absl::Status status = options_.set_extra_offloads(offloads);
  if (status.ok()) extra_offloads_ = offloads;
  return status;
}

// ---- Starting and stopping ---------------------------------------------------------------------

absl::Status InProcessNetBackend::StartOne(const BackendVring& vring, const Running& with,
                                           size_t most_frame_bytes) {
  if (absl::Status status = CheckQueue(vring.queue); !status.ok()) return status;
  NetPair& pair = PairOf(vring.queue).net;
  const bool transmit = vring.queue % 2 == 1;
  const auto context = [&vring](const absl::Status& status) {
    return kernel_abi::AddContext(status, absl::StrCat("queue ", vring.queue));
  };
  if (pair.is_running(transmit)) {
    return context(absl::FailedPreconditionError("is running already"));
  }
  if (!vring.vring.SamePlaceIn(*with.memory)) {
    return context(absl::FailedPreconditionError("does not lie in the memory given"));
  }
  auto queue =
      Virtqueue::Create(kernel_, vring.vring, vring.base, with.acked, with.memory, vring.call_fd);
  if (!queue->broken().ok()) return context(queue->broken());
  const auto header_bytes = static_cast<size_t>(NetBackend::HeaderBytes(with.acked));
  const int tap_fd = options_.tap_fds[static_cast<size_t>(vring.queue) / 2];
  absl::Status status;
  if (transmit) {
    TransmitQueue::Options options{
        .tap_fd = tap_fd, .header_bytes = header_bytes, .merge = {}, .ring = pair.ring()};
    if (options_.coalesce) {
      options.merge = {.tcp4 = !with.acked.Has(kNetHostTso4),
                       .tcp6 = !with.acked.Has(kNetHostTso6),
                       .udp4 = options_.tap_takes_uso && !with.acked.Has(kNetHostUso),
                       .udp6 = options_.tap_takes_uso && !with.acked.Has(kNetHostUso)};
    }
    pair.thread().Call([&] { status = pair.StartTransmit(vring, std::move(queue), options); });
  } else {
    const ReceiveQueue::Options options{.tap_fd = tap_fd,
                                        .header_bytes = header_bytes,
                                        .mergeable = with.acked.Has(kNetMrgRxbuf),
                                        .large = !(with.acked & kToGuestSegmentation).empty(),
                                        .most_frame_bytes = most_frame_bytes,
                                        .take_all = extra_offloads_ == 0,
                                        .takes_partial_checksums = with.acked.Has(kNetGuestCsum),
                                        .takes_tso4 = with.acked.Has(kNetGuestTso4),
                                        .takes_tso6 = with.acked.Has(kNetGuestTso6),
                                        .takes_uso4 = with.acked.Has(kNetGuestUso4),
                                        .takes_uso6 = with.acked.Has(kNetGuestUso6),
                                        .ring = pair.ring()};
    pair.thread().Call([&] { status = pair.StartReceive(vring, std::move(queue), options); });
  }
  return context(status);
}

absl::Status InProcessNetBackend::CheckStart(const BackendStart& start) const {
  if (running_.has_value()) {
    return absl::FailedPreconditionError("the in-process backend is running");
  }
  for (const BackendVring& vring : start.vrings) {
    if (absl::Status status = CheckQueue(vring.queue); !status.ok()) return status;
  }
  if (prepared_.has_value() && prepared_->acked == start.acked) return absl::OkStatus();
  std::vector<bool> checked(pairs_.size());
  for (const BackendVring& vring : start.vrings) {
    const size_t pair = static_cast<size_t>(vring.queue) / 2;
    if (checked[pair]) continue;
    checked[pair] = true;
    if (absl::Status status = CheckTap(pair, start.acked); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status InProcessNetBackend::Prepare(const BackendStart& start) {
  prepared_.reset();
  absl::Status status = CheckStart(start);
  if (!status.ok()) return status;
  prepared_ = Prepared{.acked = start.acked, .most_frame_bytes = {}};
  for (size_t pair = 0; pair < pairs_.size(); ++pair) {
    prepared_->most_frame_bytes.push_back(MostFrameBytes(pair));
  }
  return status;
}

absl::Status InProcessNetBackend::Start(const BackendStart& start) {
  absl::Status check = CheckStart(start);
  const std::optional<Prepared> prepared = std::exchange(prepared_, std::nullopt);
  if (!check.ok()) return check;
  if (absl::Status status = SetExtraOffloads(ExtraOffloads(start.acked)); !status.ok()) {
    return status;
  }
  running_ = Running{.acked = start.acked, .memory = start.memory};
  for (const BackendVring& vring : start.vrings) {
    const size_t pair = static_cast<size_t>(vring.queue) / 2;
    absl::Status status =
        StartOne(vring, *running_,
                 prepared.has_value() ? prepared->most_frame_bytes[pair] : MostFrameBytes(pair));
    if (status.ok()) continue;
    Stop();
    return status;
  }
  return absl::OkStatus();
}

std::vector<StoppedVring> InProcessNetBackend::Stop() {
  std::vector<StoppedVring> stopped;
  if (!running_.has_value()) return stopped;
  // First, so that less is on its way to a backend that does not cut.
  SetExtraOffloads(0).IgnoreError();
  for (size_t i = 0; i < pairs_.size(); ++i) {
    NetPair& pair = pairs_[i]->net;
    const int queue = static_cast<int>(2 * i);
    pair.thread().Call([&] {
      if (pair.is_running(false)) stopped.push_back({queue, pair.StopReceive()});
      if (pair.is_running(true)) stopped.push_back({queue + 1, pair.StopTransmit()});
    });
  }
  running_.reset();
  return stopped;
}

absl::Status InProcessNetBackend::StartVring(const BackendVring& vring) {
  if (!running_.has_value()) {
    return absl::FailedPreconditionError("the in-process backend is not running");
  }
  if (absl::Status status = CheckQueue(vring.queue); !status.ok()) return status;
  const size_t pair = static_cast<size_t>(vring.queue) / 2;
  absl::Status status = CheckTap(pair, running_->acked);
  return status.ok() ? StartOne(vring, *running_, MostFrameBytes(pair)) : status;
}

absl::StatusOr<VringBase> InProcessNetBackend::StopVring(int queue) {
  if (absl::Status status = CheckQueue(queue); !status.ok()) return status;
  NetPair& pair = PairOf(queue).net;
  const bool transmit = queue % 2 == 1;
  std::optional<VringBase> base;
  pair.thread().Call([&] {
    if (!pair.is_running(transmit)) return;
    base = transmit ? pair.StopTransmit() : pair.StopReceive();
  });
  if (base.has_value()) return *base;
  return absl::FailedPreconditionError(absl::StrCat("queue ", queue, " is not running"));
}

absl::Status InProcessNetBackend::SetMemory(const std::shared_ptr<const MemoryTable>& memory) {
  if (!running_.has_value()) return absl::OkStatus();  // The next start brings its table.
  for (int queue = 0; queue < queue_count(); ++queue) {
    const Virtqueue* ring = PairOf(queue).net.queue(queue % 2 == 1);
    if (ring != nullptr && !ring->vring().SamePlaceIn(*memory)) {
      return absl::FailedPreconditionError(
          absl::StrCat("queue ", queue, " is running, and would lie elsewhere"));
    }
  }
  for (const std::unique_ptr<Pair>& pair : pairs_) {
    pair->net.thread().Call([&] { pair->net.SetMemory(memory); });
  }
  running_->memory = memory;
  ++memory_updates_;
  return absl::OkStatus();
}

absl::Status InProcessNetBackend::SetCall(int queue, int call_fd) {
  if (absl::Status status = CheckQueue(queue); !status.ok()) return status;
  NetPair& pair = PairOf(queue).net;
  pair.thread().Call([&] { pair.SetCall(queue % 2 == 1, call_fd); });
  return absl::OkStatus();
}

std::optional<VringPosition> InProcessNetBackend::Position(int queue) const {
  std::optional<VringPosition> position;
  if (!CheckQueue(queue).ok()) return position;
  const NetPair& pair = PairOf(queue).net;
  pair.thread().Call([&] {
    const Virtqueue* ring = pair.queue(queue % 2 == 1);
    if (ring != nullptr) position = VringPosition{ring->base(), ring->published()};
  });
  return position;
}

int InProcessNetBackend::error_fd(int queue) const {
  return CheckQueue(queue).ok() ? PairOf(queue).net.direction(queue % 2 == 1).error.get() : -1;
}

void InProcessNetBackend::CountError(int queue) {
  if (CheckQueue(queue).ok()) ++PairOf(queue).net.direction(queue % 2 == 1).errors;
}

// ---- Reports -----------------------------------------------------------------------------------

NetCounters InProcessNetBackend::counters(int queue) const {
  NetCounters counters;
  const NetPair& pair = PairOf(queue).net;
  pair.thread().Call([&] { counters = pair.direction(queue % 2 == 1).counters; });
  return counters;
}

DataThread& InProcessNetBackend::thread(int pair) const {
  return pairs_[static_cast<size_t>(pair)]->net.thread();
}

void InProcessNetBackend::ReportIoEngine(BackendReport& report) const {
  absl::Status refused = io_uring_refused_;
  for (const std::unique_ptr<Pair>& pair : pairs_) {
    const NetPair& net = pair->net;
    if (net.ring() == nullptr) continue;
    net.thread().Call([&] { refused.Update(net.ring()->broken()); });
  }
  const bool by_ring = options_.io_engine == IoEngine::kIoUring && refused.ok();
  report.io_engine = Name(by_ring ? IoEngine::kIoUring : IoEngine::kSyscall);
  if (options_.io_engine == IoEngine::kAuto) {
    report.io_engine_reason = "auto: frames go out at less cost by system calls";
  } else if (!refused.ok()) {
    report.io_engine_reason = absl::StrCat("io_uring was asked for: ", refused.message());
  } else {
    report.io_engine_reason = "asked for";
  }
}

BackendReport InProcessNetBackend::Report() const {
  BackendReport report{.kind = BackendKind::kInProcess,
                       .node = "TAP",
                       .running = running_.has_value(),
                       .memory_updates = memory_updates_};
  ReportIoEngine(report);
  for (size_t i = 0; i < pairs_.size(); ++i) {
    const NetPair& pair = pairs_[i]->net;
    DataThread& thread = pair.thread();
    std::vector<int> queues;
    thread.Call([&] {
      const DataThread::TaskStats stats = thread.task_stats(pair);
      for (const bool transmit : {false, true}) {
        const NetPair::Direction& from = pair.direction(transmit);
        BackendVringReport vring{.queue = static_cast<int>(2 * i) + (transmit ? 1 : 0),
                                 .kick_fd = from.kick_fd,
                                 .call_fd = from.call_fd,
                                 .err_fd = from.error.get(),
                                 .errors = from.errors,
                                 .data_path = from.counters.Report(),
                                 .problem = from.problem};
        vring.data_path->polls = stats.polls;
        vring.data_path->wake_ups = stats.wake_ups;
        if (const Virtqueue* queue = pair.queue(transmit); queue != nullptr) {
          vring.last_avail = static_cast<uint16_t>(queue->base());
        }
        queues.push_back(vring.queue);
        report.vrings.push_back(std::move(vring));
      }
    });
    const pid_t tid = thread.tid();
    auto known = std::find_if(report.workers.begin(), report.workers.end(),
                              [tid](const WorkerReport& worker) { return worker.tid == tid; });
    if (known == report.workers.end()) {
      known = report.workers.insert(known, thread.Report());
    }
    known->queues.insert(known->queues.end(), queues.begin(), queues.end());
  }
  return report;
}

}  // namespace vhost::inprocess
