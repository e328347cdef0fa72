// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A vhost-user back end with state and without a data path: it listens at a path, keeps what a
// front end tells it, and misbehaves when the test says so. Thread safety: any thread.
#pragma once

#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/kernel.h"
#include "kernel-abi/unique_fd.h"
#include "vhost/host/unix_socket.h"
#include "vhost/user/connection.h"
#include "vhost/user/message.h"
#include "vhost/user/protocol.h"

namespace fakes {

class FakeBackEnd {
 public:
  enum class Answer : uint8_t {
    kRight,
    kNothing,  // now and for ever
    kClose,
    kRefuse,   // where an answer is asked for
    kAnother,  // the reply to another request
    kGarbage,
  };
  struct Vring {
    uint32_t size = 0;
    uint32_t base = 0;
    std::optional<vhost::user::VringAddr> addresses;
    bool enabled = false;
    kernel_abi::UniqueFd kick, call, error;
  };
  struct State {
    std::vector<std::string> requests;  // of all connections
    int connections = 0;
    uint64_t features = 0;  // acked
    uint64_t protocol = 0;
    uint64_t status = 0;
    uint64_t mtu = 0;
    std::map<uint32_t, Vring> vrings;
    std::vector<vhost::user::MemRegion> memory;
    int inflight_made = 0;
    int inflight_given = 0;
    std::vector<std::byte> config;
  };
  struct Options {
    std::string path;
    uint64_t features = uint64_t{1} << 32 | uint64_t{1} << 30 | 0x3000'0000;
    uint64_t protocol = 0x1'f23f;  // what the front end knows
    uint64_t queues = 4;
    uint64_t slots = 32;
    std::vector<std::byte> config = std::vector<std::byte>(60);
  };

  explicit FakeBackEnd(Options options) : options_(std::move(options)) {
    state_.config = options_.config;
    Listen();
  }
  ~FakeBackEnd() { Die(); }

  // As kill -9 does: the connection and the listening socket go.
  void Die() {
    if (!thread_.joinable()) return;
    stop_ = true;
    thread_.join();
    listener_.reset();
  }
  void Listen() {
    listener_.emplace(*vhost::UnixListener::Create(options_.path));
    stop_ = false;
    thread_ = std::thread([this] { Run(); });
  }
  // Ends the connection that there is, and takes the next.
  void Disconnect() { disconnect_ = true; }

  // Called for each request, by its number since the beginning, from 1 on.
  void set_answer(std::function<Answer(int number, const std::string& request)> answer) {
    absl::MutexLock lock(&mutex_);
    answer_ = std::move(answer);
  }
  void set_offer(uint64_t features) { options_.features = features; }  // while it is dead
  void ChangeConfig(std::vector<std::byte> config) {
    absl::MutexLock lock(&mutex_);
    state_.config = std::move(config);
    tell_config_ = true;
  }

  // What the front end has told it so far. Vrings come without their fds.
  std::vector<std::string> requests() const {
    absl::MutexLock lock(&mutex_);
    return state_.requests;
  }
  // Waits until `condition` holds of its state, a minute at most.
  [[nodiscard]] bool Await(const std::function<bool(const State&)>& condition) const {
    const auto holds = [&] {
      mutex_.AssertReaderHeld();
      return condition(state_);
    };
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&holds), absl::Minutes(1));
  }
  [[nodiscard]] bool AwaitServing(uint32_t vring) const {
    return Await([vring](const State& state) {
      const auto found = state.vrings.find(vring);
      return found != state.vrings.end() && found->second.enabled && found->second.kick.valid();
    });
  }
  void SetBase(uint32_t vring, uint32_t base) {
    absl::MutexLock lock(&mutex_);
    state_.vrings[vring].base = base;
  }

 private:
  using Connection = vhost::user::Connection;
  using Message = vhost::user::Message;
  using Request = vhost::user::FrontEndRequest;

  static Connection::Deadline Soon() { return Connection::Clock::now() + std::chrono::seconds(60); }

  void Run() {
    while (!stop_) {
      pollfd entry{.fd = listener_->fd(), .events = POLLIN, .revents = 0};
      if (poll(&entry, 1, 2) <= 0) continue;
      kernel_abi::UniqueFd fd(accept4(listener_->fd(), nullptr, nullptr, SOCK_CLOEXEC));
      if (fd.valid()) Serve(std::move(fd));
    }
  }

  void Serve(kernel_abi::UniqueFd fd) {
    Connection connection(std::move(fd), vhost::user::RequestSet::kFrontEnd,
                          vhost::user::Role::kServer, "fake back end");
    back_channel_.reset();
    disconnect_ = false;
    stalled_ = false;
    {
      absl::MutexLock lock(&mutex_);
      ++state_.connections;
      state_.vrings.clear();
    }
    while (!stop_ && !disconnect_) {
      TellConfig();
      if (stalled_) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        pollfd entry{.fd = connection.fd(), .events = POLLRDHUP, .revents = 0};
        if (poll(&entry, 1, 0) > 0) break;
        continue;
      }
      pollfd entry{.fd = connection.fd(), .events = POLLIN, .revents = 0};
      if (poll(&entry, 1, 2) <= 0) continue;
      auto message = connection.TryReceive();
      if (!message.ok()) break;
      if (!message->has_value()) continue;
      if (!Handle(connection, **message)) break;
    }
    back_channel_.reset();
    absl::MutexLock lock(&mutex_);
    state_.vrings.clear();
  }

  void TellConfig() {
    {
      absl::MutexLock lock(&mutex_);
      if (!tell_config_ || !back_channel_.has_value()) return;
      tell_config_ = false;
    }
    back_channel_
        ->Send(vhost::user::MakeRequest(vhost::user::BackEndRequest::kConfigChange), Soon())
        .IgnoreError();
  }

  bool Handle(Connection& connection, Message& message) {
    const std::string name =
        vhost::user::RequestName(vhost::user::RequestSet::kFrontEnd, message.request);
    Answer how = Answer::kRight;
    {
      absl::MutexLock lock(&mutex_);
      state_.requests.push_back(name);
      if (answer_ != nullptr) how = answer_(static_cast<int>(state_.requests.size()), name);
    }
    switch (how) {
      case Answer::kClose:
        return false;
      case Answer::kNothing:
        stalled_ = true;
        return true;
      case Answer::kGarbage: {
        const char bytes[40] = "this is no vhost-user message at all";
        return send(connection.fd(), bytes, sizeof(bytes), MSG_NOSIGNAL) > 0 && true;
      }
      default:
        break;
    }
    std::optional<Message> reply = Take(message);
    if (!reply.has_value() && message.wants_ack()) {
      reply = vhost::user::MakeAck(message, how != Answer::kRefuse);
    }
    if (!reply.has_value()) return true;
    if (how == Answer::kAnother) reply->request = message.request == 1 ? 15 : 1;
    std::vector<int> fds;
    for (const auto& fd : reply->fds) fds.push_back(fd.get());
    return connection.Send(*reply, fds, Soon()).ok();
  }

  std::optional<Message> Take(Message& message) {
    absl::MutexLock lock(&mutex_);
    const auto number = [&] { return vhost::user::GetU64(message).value_or(0); };
    const auto vring_state = [&] {
      return vhost::user::GetPayload<vhost::user::VringState>(message).value();
    };
    const auto vring_fd = [&](kernel_abi::UniqueFd Vring::*fd) {
      mutex_.AssertHeld();
      Vring& vring = state_.vrings[static_cast<uint32_t>(number() & 0xff)];
      vring.*fd = message.fds.empty() ? kernel_abi::UniqueFd() : std::move(message.fds[0]);
    };
    switch (static_cast<Request>(message.request)) {
      case Request::kGetFeatures:
        return vhost::user::MakeReply(message, options_.features);
      case Request::kSetFeatures:
        state_.features = number();
        break;
      case Request::kGetProtocolFeatures:
        return vhost::user::MakeReply(message, options_.protocol);
      case Request::kSetProtocolFeatures:
        state_.protocol = number();
        break;
      case Request::kGetQueueNum:
        return vhost::user::MakeReply(message, options_.queues);
      case Request::kGetMaxMemSlots:
        return vhost::user::MakeReply(message, options_.slots);
      case Request::kSetMemTable:
        state_.memory = vhost::user::GetMemTable(message).value();
        break;
      case Request::kAddMemReg:
        state_.memory.push_back(
            vhost::user::GetPayload<vhost::user::SingleMemRegion>(message)->region);
        break;
      case Request::kRemMemReg: {
        const auto gone = vhost::user::GetPayload<vhost::user::SingleMemRegion>(message)->region;
        std::erase_if(state_.memory, [&](const vhost::user::MemRegion& region) {
          return region.guest_address == gone.guest_address && region.size == gone.size;
        });
        break;
      }
      case Request::kSetVringNum:
        state_.vrings[vring_state().index].size = vring_state().num;
        break;
      case Request::kSetVringBase:
        state_.vrings[vring_state().index].base = vring_state().num;
        break;
      case Request::kSetVringAddr: {
        const auto addresses = vhost::user::GetPayload<vhost::user::VringAddr>(message).value();
        state_.vrings[addresses.index].addresses = addresses;
        break;
      }
      case Request::kGetVringBase: {
        Vring& vring = state_.vrings[vring_state().index];
        const uint32_t base = vring.base;
        vring = Vring{};  // It forgets all.
        return vhost::user::MakeReply(message, vhost::user::VringState{vring_state().index, base});
      }
      case Request::kSetVringKick:
        vring_fd(&Vring::kick);
        break;
      case Request::kSetVringCall:
        vring_fd(&Vring::call);
        break;
      case Request::kSetVringErr:
        vring_fd(&Vring::error);
        break;
      case Request::kSetVringEnable:
        state_.vrings[vring_state().index].enabled = vring_state().num != 0;
        break;
      case Request::kSetBackendReqFd:
        back_channel_.emplace(std::move(message.fds[0]), vhost::user::RequestSet::kBackEnd,
                              vhost::user::Role::kRequester, "fake back end");
        break;
      case Request::kGetConfig: {
        const auto asked = vhost::user::GetConfig(message).value();
        std::vector<std::byte> answer = state_.config;
        answer.resize(asked.bytes.size());
        return vhost::user::MakeConfigReply(message, asked.offset, answer);
      }
      case Request::kSetConfig: {
        const auto config = vhost::user::GetConfig(message).value();
        std::copy(config.bytes.begin(), config.bytes.end(), state_.config.begin() + config.offset);
        break;
      }
      case Request::kGetInflightFd: {
        ++state_.inflight_made;
        auto description =
            vhost::user::GetPayload<vhost::user::InflightDescription>(message).value();
        description.mmap_size = 4096;
        Message reply = vhost::user::MakeReply(message, description);
        reply.fds.emplace_back(kernel_abi::LinuxKernel().MemFd("inflight", 0));
        return reply;
      }
      case Request::kSetInflightFd:
        ++state_.inflight_given;
        break;
      case Request::kSetStatus:
        state_.status = number();
        break;
      case Request::kGetStatus:
        return vhost::user::MakeReply(message, state_.status);
      case Request::kNetSetMtu:
        state_.mtu = number();
        break;
      default:
        break;
    }
    return std::nullopt;
  }

  Options options_;
  std::optional<vhost::UnixListener> listener_;
  std::optional<Connection> back_channel_;
  std::atomic<bool> stop_ = false;
  std::atomic<bool> disconnect_ = false;
  bool stalled_ = false;
  mutable absl::Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_);
  bool tell_config_ ABSL_GUARDED_BY(mutex_) = false;
  std::function<Answer(int, const std::string&)> answer_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace fakes
