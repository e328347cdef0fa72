// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/control/server.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "vhost/control/protocol.h"
#include "vhost/control/report_json.h"

namespace vhost::control {
namespace {

using kernel_abi::UniqueFd;

// What the epoll reports; clients count from kFirstClient.
constexpr uint64_t kListenerId = 0;
constexpr uint64_t kTimerId = 1;
constexpr uint64_t kFirstClient = 2;
constexpr int kMaxAcceptsPerRound = 16;

absl::Status Failure(const std::string& path, const char* call) {
  return kernel_abi::MakeSystemError({.error = errno, .subject = path, .call = call});
}

int Control(const UniqueFd& epoll, int operation, int fd, uint64_t id, uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = id;
  return epoll_ctl(epoll.get(), operation, fd, &event);
}

// How often deadlines are looked at: fine enough for the shorter of them.
uint32_t TickMs(const ServerOptions& options) {
  const uint32_t shorter = std::min(options.idle_timeout_ms, options.exchange_timeout_ms);
  return std::clamp<uint32_t>(shorter / 4, 5, 1000);
}

// Tells a client that is not admitted why. It gets no second attempt: it fits into the socket's
// buffer, or the client is gone.
void Refuse(int fd, const absl::Status& status) {
  const std::string line = ErrorLine("null", status);
  [[maybe_unused]] const ssize_t sent =
      send(fd, line.data(), line.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Create(EventLoop& loop, RequestHandler handler,
                                                       const ServerOptions& options) {
  absl::StatusOr<Listener> listener = Listener::Create(options.path, options.group);
  if (!listener.ok()) return kernel_abi::AddContext(listener.status(), "control socket");
  UniqueFd epoll(epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return Failure(options.path, "epoll_create1");
  UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.valid()) return Failure(options.path, "timerfd_create");
  if (Control(epoll, EPOLL_CTL_ADD, listener->fd(), kListenerId, EPOLLIN) != 0 ||
      Control(epoll, EPOLL_CTL_ADD, timer.get(), kTimerId, EPOLLIN) != 0) {
    return Failure(options.path, "epoll_ctl");
  }
  std::unique_ptr<Server> server(new Server(*std::move(listener), std::move(epoll),
                                            std::move(timer), std::move(handler), options));
  Server* raw = server.get();
  auto watch = loop.WatchReadable(raw->epoll_.get(), [raw] { raw->OnReady(); });
  if (!watch.ok()) return watch.status();
  server->watch_ = *std::move(watch);
  return server;
}

Server::Server(Listener listener, UniqueFd epoll, UniqueFd timer, RequestHandler handler,
               const ServerOptions& options)
    : options_(options),
      handler_(std::move(handler)),
      answer_([this](absl::string_view line) { return Answer(line); }),
      listener_(std::move(listener)),
      epoll_(std::move(epoll)),
      timer_(std::move(timer)),
      next_client_(kFirstClient) {}

Server::~Server() = default;

void Server::OnReady() {
  std::array<epoll_event, 32> events;
  const int count = epoll_wait(epoll_.get(), events.data(), events.size(), 0);
  const Clock::time_point now = Clock::now();
  for (int i = 0; i < count; ++i) {
    switch (const uint64_t id = events[i].data.u64; id) {
      case kListenerId:
        Accept(now);
        break;
      case kTimerId:
        OnTick(now);
        break;
      default:
        Advance(id, now);
    }
  }
  SetTimer();
}

void Server::Accept(Clock::time_point now) {
  for (int i = 0; i < kMaxAcceptsPerRound; ++i) {
    UniqueFd fd(accept4(listener_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (fd.valid()) {
      Admit(std::move(fd), now);
    } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      // The connection stays in the queue and the listener readable: without a pause the loop would
      // spin until somebody closes an fd.
      return PauseAccepting(true);
    } else if (errno != ECONNABORTED && errno != EINTR) {
      return;
    }
  }
}

void Server::Admit(UniqueFd fd, Clock::time_point now) {
  if (absl::Status status = CheckPeer(fd.get(), options_.group); !status.ok()) {
    return Refuse(fd.get(), status);
  }
  if (clients_.size() >= static_cast<size_t>(options_.max_clients)) {
    return Refuse(fd.get(), absl::ResourceExhaustedError(absl::StrCat(
                                "control socket: ", options_.max_clients,
                                " clients are connected, which is the most it serves")));
  }
  const uint64_t id = next_client_++;
  if (Control(epoll_, EPOLL_CTL_ADD, fd.get(), id, EPOLLIN) != 0) return;
  const Connection::Timeouts timeouts = {
      .idle = std::chrono::milliseconds(options_.idle_timeout_ms),
      .exchange = std::chrono::milliseconds(options_.exchange_timeout_ms)};
  clients_.emplace(id, Connection(std::move(fd), timeouts, now));
}

void Server::Advance(uint64_t client, Clock::time_point now) {
  const auto found = clients_.find(client);
  if (found == clients_.end()) return;  // Closed earlier in this round.
  WaitFor(client, found->second.Advance(answer_, now));
}

Reply Server::Answer(absl::string_view line) const {
  Reply reply = handler_(line);
  if (!reply.subscription.has_value()) return reply;
  const auto followers = std::count_if(clients_.begin(), clients_.end(), [](const auto& client) {
    return client.second.is_subscribed();
  });
  if (followers < options_.max_followers) return reply;
  return ErrorLine(reply.subscription->id,
                   absl::ResourceExhaustedError(absl::StrCat(
                       "control socket: ", options_.max_followers,
                       " clients follow events, which is the most it serves; try again later")));
}

void Server::WaitFor(uint64_t client, Connection::Waits waits) {
  uint32_t events = 0;
  switch (waits) {
    case Connection::Waits::kForInput:
      events = EPOLLIN;
      break;
    case Connection::Waits::kForOutput:
      events = EPOLLOUT;
      break;
    case Connection::Waits::kForEither:
      events = EPOLLIN | EPOLLOUT;
      break;
    case Connection::Waits::kForHangUp:
      break;  // which is always reported
    case Connection::Waits::kForNothing:
      clients_.erase(client);  // closes it, which takes it out of the epoll
      return;
  }
  Control(epoll_, EPOLL_CTL_MOD, clients_.at(client).fd(), client, events);
}

void Server::Publish(const DeviceEvent& event, uint64_t dropped) {
  const Clock::time_point now = Clock::now();
  std::string json;  // made when the first client wants it
  for (auto next = clients_.begin(); next != clients_.end();) {
    const auto client = next++;
    if (!client->second.is_subscribed()) continue;
    if (json.empty()) json = ToJson(event);
    const auto waits = client->second.Offer(event.device, json, dropped, now);
    if (waits.has_value()) WaitFor(client->first, *waits);
  }
  SetTimer();
}

void Server::OnTick(Clock::time_point now) {
  uint64_t ticks;
  [[maybe_unused]] const ssize_t count = read(timer_.get(), &ticks, sizeof(ticks));
  std::erase_if(clients_, [now](const auto& client) { return client.second.Expired(now); });
  if (accepting_paused_) PauseAccepting(false);
}

void Server::SetTimer() {
  const bool wanted = accepting_paused_ || !clients_.empty();
  if (wanted == timer_runs_) return;
  itimerspec spec{};
  if (wanted) {
    const uint32_t tick_ms = TickMs(options_);
    spec.it_interval = {.tv_sec = tick_ms / 1000, .tv_nsec = (tick_ms % 1000) * 1'000'000L};
    spec.it_value = spec.it_interval;
  }
  timerfd_settime(timer_.get(), 0, &spec, nullptr);
  timer_runs_ = wanted;
}

void Server::PauseAccepting(bool pause) {
  accepting_paused_ = pause;
  Control(epoll_, EPOLL_CTL_MOD, listener_.fd(), kListenerId, pause ? 0u : uint32_t{EPOLLIN});
}

}  // namespace vhost::control
