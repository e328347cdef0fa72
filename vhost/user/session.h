// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The back end's side of one connection: requests of a front end become calls of a device's
// Backend. What is remembered of the front end (memory, rings, features) ends with the session.
//
// A ring, as the protocol has it (vhost-user.rst, "Ring states"):
//
//              SET_VRING_KICK, then a kick              both started and enabled: the backend runs
//              it
//     stopped ----------------------------> started     started and disabled: nothing comes in, and
//        ^                                     |          what would go out is thrown away
//        +----------- GET_VRING_BASE ----------+
//
//   It is enabled from the start, unless protocol features were negotiated: then by
//   SET_VRING_ENABLE. What is set while it runs (memory, addresses, kick, size) stops it for that
//   moment, and it goes on where it was.
//
// A front end lies or is wrong: what it asked for is refused with an error, which the connection
// answers with, if an answer was wanted (REPLY_ACK), or ends for. Before that nothing has changed.
//
// Thread safety: none; its watches call on the event loop's thread, and so must everybody else.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/event_loop.h"
#include "vhost/user/message.h"
#include "vhost/user/protocol.h"
#include "vhost/user/served_device.h"
#include "vhost/user/shared_memory.h"

namespace vhost::user {

class DiscardedRing;

class Session {
 public:
  // All are lent for its life. `on_failure` is called, once, when a ring that was kicked cannot be
  // run: the connection had better end. Not from within Handle.
  Session(kernel_abi::Kernel& kernel, EventLoop& loop, ServedDevice& device,
          std::function<void(const absl::Status&)> on_failure);
  // Stops all rings, and unmaps what was shared.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Does what a request that passed the checks of message.h asks for. The answer to be sent, if
  // there is one. An error: the connection has to end.
  absl::StatusOr<std::optional<Message>> Handle(Message request);

  ProtocolFeatures offered_protocol_features() const;
  // Whether the backend serves that ring now.
  bool is_running(int queue) const;

 private:
  struct Ring {
    Ring();
    ~Ring();
    Ring(Ring&&) noexcept;
    Ring& operator=(Ring&&) noexcept;

    uint16_t size = 0;
    std::optional<VringAddr> address;
    std::optional<VringBase> base;  // without: where a ring begins
    bool base_was_set = false;      // by the front end, since it last ran
    kernel_abi::UniqueFd kick;
    kernel_abi::UniqueFd call;
    kernel_abi::UniqueFd err;
    bool is_started = false;
    std::optional<bool> enabled;               // as told by SET_VRING_ENABLE
    bool is_running = false;                   // by the backend
    std::unique_ptr<DiscardedRing> discarded;  // while it is started and disabled
    std::unique_ptr<Watch> kick_watch;         // until it is started
    std::unique_ptr<Watch> error_watch;        // while it runs
  };

  // ---- Requests (session.cc) ----
  // An answer with a payload of its own.
  absl::StatusOr<std::optional<Message>> Answer(const Message& request);
  absl::StatusOr<Message> AnswerConfig(const Message& request) const;
  absl::Status Do(Message& request);
  absl::Status SetFeatures(uint64_t bits);
  absl::Status SetProtocolFeatures(uint64_t bits);
  absl::Status SetMemTable(Message& request);
  absl::Status AddRegion(Message& request);
  absl::Status RemoveRegion(const Message& request);
  absl::Status SetConfig(const Message& request);
  absl::Status SetStatus(uint64_t status);
  absl::Status SendRarp(const Message& request);
  absl::Status Need(ProtocolFeature feature) const;

  // ---- Rings (session_rings.cc) ----
  absl::Status SetVringState(const Message& request);
  absl::Status SetAddress(const VringAddr& address);
  absl::Status SetRingFd(Message& request);
  absl::StatusOr<VringState> GetVringBase(const VringState& state);
  absl::Status CheckIndex(uint64_t index) const;
  void OnKick(int queue);
  void OnRingError(int queue);
  VringLayout layout() const;
  // Brings the backend in line with what a ring is set to.
  absl::Status Settle(int queue);
  absl::Status SettleAll();
  absl::StatusOr<BackendVring> Locate(int queue) const;
  absl::Status Run(int queue);
  // Takes it from whoever serves it, and notes where that got to.
  void Halt(int queue);
  void HaltAll();
  // Changes something under all rings, which go on afterwards if they can.
  absl::Status UseMemory(SharedMemory memory);
  bool AllBeginAnew() const;
  bool IsEnabled(const Ring& ring) const {
    return ring.enabled.value_or(!protocol_features_acked_);
  }
  // The driver's reset: all rings are stopped, and begin anew.
  void ResetRings();

  kernel_abi::Kernel& kernel_;
  EventLoop& loop_;
  ServedDevice& device_;
  const std::function<void(const absl::Status&)> on_failure_;
  ProtocolFeatures protocol_features_;
  bool protocol_features_acked_ = false;  // VHOST_USER_F_PROTOCOL_FEATURES
  VirtioFeatures acked_;
  uint8_t status_ = 0;
  SharedMemory memory_;
  std::vector<Ring> rings_;
  bool is_backend_running_ = false;
};

}  // namespace vhost::user
