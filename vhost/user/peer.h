// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The process that serves a device's vrings, as the front end sees it: over time, with whatever
// connections there are to it. A Peer is told what is wanted (these vrings, in this memory), and
// sees to it that whoever is at the other end does that, now or as soon as there is somebody.
//
//              connects, negotiates            vrings are wanted
//      away ------------------------> idle ------------------------> serving
//       ^  \__ tries again, 10 ms to 1 s   <------------------------    |
//       |      apart, without end          |       Stop                 |
//       +----------------------------------+----------------------------+
//                  it closed, lied, or did not answer in time
//
// All that is said to it is said on a thread of the Peer's own. So a peer that stalls, lies or dies
// makes neither a vCPU nor the control plane wait: Start and StartVring return before it was told,
// the configuration space is read from a copy, and what must be over when it returns (Stop, another
// memory table) waits `stop_timeout` at most. A connection that has not answered by then is cut.
//
// Requests that were in flight when a peer was lost are done again by the next one: it gets the
// buffer in which the lost one has noted them (INFLIGHT_SHMFD). Of one that notes nothing we know
// them ourselves, where the type of device is one that needs it (avail_relay.h). Otherwise the
// rings go on at their used index, which is exact for a peer that uses buffers in order.
//
// What cannot be done: nobody can take shared memory back from a process. A peer that was cut off
// and does not exit can go on writing to what it was given.
//
// Thread safety: any thread.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/backend.h"
#include "vhost/features.h"
#include "vhost/guest_memory.h"
#include "vhost/host/unix_socket.h"
#include "vhost/kernel/vhost_device.h"
#include "vhost/user/avail_relay.h"
#include "vhost/user/connection.h"
#include "vhost/user/protocol.h"
#include "vhost/user/vhost_ops.h"

namespace vhost::user {

// What a device does when its back end is gone. It is looked for again in any case.
enum class OnLoss : uint8_t {
  kWait,  // the driver waits for the next one
  kFail,  // another candidate serves, or the device needs a reset
};

struct PeerOptions {
  std::string socket;   // path
  bool server = false;  // the back end connects to us, instead of us to it
  DeviceId id = DeviceId::kBlock;
  int queues = 1;             // vrings that it serves, from queue 0 on
  uint32_t config_bytes = 0;  // of the configuration space, that the back end knows; 0: none
  VirtioFeatures features;    // that the device could offer
  // Of these, what concerns this process only, whatever the back end offers.
  VirtioFeatures own_features;
  std::optional<uint16_t> mtu;  // that it is told of (network devices)
  // Requests must not be lost with the back end, and may be done out of order.
  bool track_in_flight = false;
  OnLoss on_loss = OnLoss::kWait;
  std::chrono::milliseconds connect_timeout{5000};  // for the first connection
  std::chrono::milliseconds request_timeout{2000};
  std::chrono::milliseconds stop_timeout{1000};
  std::chrono::milliseconds first_retry{10};  // doubles each time
  std::chrono::milliseconds longest_retry{1000};
};

class Peer {
 public:
  // Waits for the first connection: what the device offers follows from it. The error is why there
  // is none, or why it will not do.
  static absl::StatusOr<std::shared_ptr<Peer>> Create(kernel_abi::Kernel& kernel,
                                                      PeerOptions options);
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  const PeerOptions& options() const { return options_; }
  // Those of `wanted` that the device may offer. The same for life: a later peer that has not all
  // of them is not taken.
  VirtioFeatures Supported(VirtioFeatures wanted) const;
  absl::Status CheckMemory(const MemoryTable& memory) const;

  // ---- What is wanted. As the functions of Backend of these names, one call at a time ----
  void Start(const BackendStart& start);
  std::vector<StoppedVring> Stop();
  void StartVring(const BackendVring& vring);
  absl::StatusOr<VringBase> StopVring(int queue);
  absl::Status SetMemory(const std::shared_ptr<const MemoryTable>& memory);
  absl::Status SetCall(int queue, int call_fd);
  int error_fd(int queue) const { return errors_[static_cast<size_t>(queue)].get(); }

  // ---- The device's side ----
  // The configuration space as it was last heard of. Never waits.
  std::vector<std::byte> config() const;
  // Tells the back end, soon; what it makes of it is a change.
  void WriteConfig(uint32_t offset, std::span<const std::byte> from);
  // The driver has reset the device.
  void Reset();
  // Signalled when the configuration space has changed, or there is news. TakeNews drains it.
  int news_fd() const { return news_event_.get(); }
  struct News {
    bool config_changed = false;
    std::optional<bool> connected;  // it came, or went
    std::string text;               // and why
  };
  News TakeNews();

  struct Report {
    bool connected = false;
    std::string why_not;  // while it is not
    std::optional<pid_t> pid;
    uint64_t connections = 0;  // since the beginning
    VhostFeatures offered;
    ProtocolFeatures protocol;
    uint64_t memory_updates = 0;
    uint32_t max_regions = 0;
  };
  Report report() const;

 private:
  // One connection, from end to end. Of the thread.
  struct Link {
    explicit Link(UserVhostOps with) : ops(std::move(with)), enabler(ops) {}
    Link(const Link&) = delete;
    Link& operator=(const Link&) = delete;
    UserVhostOps ops;
    VringEnabler enabler;
    VhostFeatures offered;
    std::optional<Connection> requests;   // of the back end's
    std::unique_ptr<VhostDevice> device;  // while vrings are served
  };
  struct Wanted {
    VirtioFeatures acked;
    std::shared_ptr<const MemoryTable> memory;
    std::map<int, BackendVring> vrings;
    std::shared_ptr<const MemoryTable> peers_memory;  // what the peer was given last
  };
  struct ConfigWrite {
    uint32_t offset;
    std::vector<std::byte> bytes;
  };

  Peer(kernel_abi::Kernel& kernel, PeerOptions options, kernel_abi::EventFd wake,
       kernel_abi::EventFd news, std::vector<kernel_abi::EventFd> errors)
      : kernel_(kernel),
        options_(std::move(options)),
        wake_(std::move(wake)),
        news_event_(std::move(news)),
        errors_(std::move(errors)) {}

  // Has the thread do it, soon.
  void Post(std::function<void()> job) ABSL_LOCKS_EXCLUDED(mutex_);
  // And waits until it has. After `limit` the connection is cut, which ends whatever the thread
  // waits for; at once, where it is only about to find out who is there.
  void Do(std::chrono::milliseconds limit, std::function<void()> job) ABSL_LOCKS_EXCLUDED(mutex_);
  void Cut() ABSL_LOCKS_EXCLUDED(mutex_);

  // ---- On the thread ----
  void Loop();
  bool RunJobs() ABSL_LOCKS_EXCLUDED(mutex_);
  void WaitForSomething();
  absl::StatusOr<kernel_abi::UniqueFd> ConnectOrAccept();
  absl::Status Connect();
  absl::Status BringUp();
  absl::Status Negotiate(Link& link);
  absl::Status CheckOffer(VhostFeatures offered) const;
  absl::Status OpenRequestChannel(Link& link);
  absl::Status RefreshConfig();
  absl::Status ServeWanted();
  absl::Status SetUpInflight();
  absl::Status SetStatus(uint8_t status);
  void PostConfigWrites() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status WriteConfigs() ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<ConfigWrite> NextConfigWrite() ABSL_LOCKS_EXCLUDED(mutex_);
  void ReadRequests();
  void Lose(const absl::Status& why);
  // Loses the connection if it is broken by now.
  void LoseIfBroken(const absl::Status& why);
  std::vector<StoppedVring> StopWanted();
  // Waits until the peer has used all that it has taken, up to `base`.
  bool Drain(const Vring& vring, VringBase base) const;
  void SetConfigCopy(std::vector<std::byte> config) ABSL_LOCKS_EXCLUDED(mutex_);
  void Tell(std::optional<bool> connected, std::string text) ABSL_LOCKS_EXCLUDED(mutex_);
  void UpdateReport() ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether what is in flight is known by the relay.
  bool is_relayed() const {
    return relay_ != nullptr && wanted_->acked.Has(VirtioFeature::kEventIdx);
  }
  // Memory and rings as the back end is given them.
  absl::StatusOr<std::shared_ptr<const MemoryTable>> MemoryForPeer(
      const std::shared_ptr<const MemoryTable>& memory) const;
  absl::StatusOr<VhostVring> ForPeer(const BackendVring& vring, const MemoryTable& memory) const;

  kernel_abi::Kernel& kernel_;
  const PeerOptions options_;
  const kernel_abi::EventFd wake_;
  const kernel_abi::EventFd news_event_;
  const std::vector<kernel_abi::EventFd> errors_;  // by queue

  mutable absl::Mutex mutex_;
  std::deque<std::function<void()>> jobs_ ABSL_GUARDED_BY(mutex_);
  std::deque<ConfigWrite> config_writes_ ABSL_GUARDED_BY(mutex_);  // that it was not told of
  bool config_job_waits_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  int live_fd_ ABSL_GUARDED_BY(mutex_) = -1;  // of the connection, for Cut
  bool negotiating_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::byte> config_ ABSL_GUARDED_BY(mutex_);
  News news_ ABSL_GUARDED_BY(mutex_);
  Report report_ ABSL_GUARDED_BY(mutex_);
  std::optional<VhostFeatures> first_offer_ ABSL_GUARDED_BY(mutex_);

  // nullptr: it is not needed. Set before there is a thread.
  std::unique_ptr<AvailRelay> relay_;

  // Of the thread.
  std::optional<UnixListener> listener_;
  std::optional<Link> link_;
  std::optional<Wanted> wanted_;
  std::optional<UserVhostOps::Inflight> inflight_;
  std::chrono::milliseconds retry_{0};
  Connection::Clock::time_point next_try_{};
  bool give_up_first_ = true;  // until the first connection: Create says what is wrong

  std::thread thread_;
};

}  // namespace vhost::user
