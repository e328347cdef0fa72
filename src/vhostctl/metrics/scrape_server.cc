// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vhostctl/metrics/scrape_server.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "kernel-abi/kernel.h"
#include "kernel-abi/system_error.h"

namespace vhost::ctl {
namespace {

using kernel_abi::UniqueFd;

constexpr int kMostAcceptsPerRound = 16;
constexpr std::chrono::milliseconds kPauseWithoutFds{100};

}  // namespace

absl::StatusOr<std::unique_ptr<ScrapeServer>> ScrapeServer::Create(
    ListeningSocket socket, std::function<Exposition()> gather, const ScrapeLimits& limits) {
  absl::StatusOr<kernel_abi::EventFd> gathered =
      kernel_abi::EventFd::Create(kernel_abi::LinuxKernel());
  if (!gathered.ok()) return gathered.status();
  return std::unique_ptr<ScrapeServer>(
      new ScrapeServer(std::move(socket), std::move(gather), limits, *std::move(gathered)));
}

ScrapeServer::~ScrapeServer() {
  if (gathering_.joinable()) gathering_.join();
}

absl::Status ScrapeServer::Run(int stop) {
  while (true) {
    Clock::time_point now = Clock::now();
    const bool accepts = now >= accept_again_;
    Clock::time_point next = accepts ? Clock::time_point::max() : accept_again_;
    std::vector<pollfd> ready = {
        {stop, POLLIN, 0},
        {gathered_.get(), POLLIN, 0},
        {socket_.fd(), static_cast<short>(accepts ? POLLIN : 0), 0},
    };
    const size_t first = ready.size();
    for (const Client& client : clients_) {
      // Who waits for a scrape is heard of only if he goes.
      const short events = client.state == State::kReading    ? POLLIN
                           : client.state == State::kReplying ? POLLOUT
                                                              : 0;
      ready.push_back({client.fd.get(), events, 0});
      next = std::min(next, client.deadline);
    }
    int timeout_ms = -1;
    if (next != Clock::time_point::max()) {
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(next - now);
      timeout_ms = static_cast<int>(std::clamp<int64_t>(left.count() + 1, 0, 60'000));
    }
    if (poll(ready.data(), ready.size(), timeout_ms) < 0 && errno != EINTR) {
      return kernel_abi::MakeSystemError({.error = errno, .subject = socket_.url, .call = "poll"});
    }
    if (ready[0].revents != 0) return absl::OkStatus();
    now = Clock::now();
    size_t i = first;
    for (auto client = clients_.begin(); client != clients_.end(); ++i) {
      bool keep = true;
      if (now >= client->deadline) {
        keep = client->state == State::kReading && Reply(*client, "", now);
        // What was not taken in time is not kept for it by the kernel either.
        const linger at_once{.l_onoff = 1, .l_linger = 0};
        if (!keep && client->state == State::kReplying && client->sent < client->output.size()) {
          setsockopt(client->fd.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
        }
      } else if (ready[i].revents != 0) {
        keep = Advance(*client, now);
      }
      client = keep ? std::next(client) : clients_.erase(client);
    }
    if (ready[1].revents != 0) OnGathered(now);
    if (ready[2].revents != 0) Accept(now);
    Gather();
  }
}

void ScrapeServer::Accept(Clock::time_point now) {
  for (int i = 0; i < kMostAcceptsPerRound; ++i) {
    UniqueFd fd(accept4(socket_.fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd.valid()) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
        accept_again_ = now + kPauseWithoutFds;  // it stays readable: do not spin meanwhile
      }
      return;
    }
    Client client{.fd = std::move(fd), .deadline = now + limits_.request};
    if (clients_.size() >= limits_.most_clients) {
      client.output = HttpReply({.status = 503}, "");
      Send(client);  // It fits into the socket's buffer, or the client is gone.
      continue;
    }
    client.verdict.status = 408;  // until it has said something
    clients_.push_back(std::move(client));
  }
}

bool ScrapeServer::Advance(Client& client, Clock::time_point now) {
  switch (client.state) {
    case State::kReading:
      return Read(client, now);
    case State::kGathering:
      return false;  // it has hung up
    case State::kReplying:
      return Send(client);
  }
  return false;
}

bool ScrapeServer::Read(Client& client, Clock::time_point now) {
  char buffer[4096];
  const ssize_t count = recv(client.fd.get(), buffer, sizeof(buffer), MSG_DONTWAIT);
  if (count < 0) return errno == EAGAIN || errno == EINTR;
  if (count == 0) return false;
  client.input.append(buffer, static_cast<size_t>(count));
  const std::optional<HttpVerdict> verdict = JudgeRequest(client.input);
  if (!verdict.has_value()) return true;
  client.verdict = *verdict;
  client.input.clear();
  if (verdict->status != 200) return Reply(client, "", now);
  client.state = State::kGathering;
  client.deadline = now + limits_.gather;
  client.waits_for_next = gathering_.joinable();
  return true;
}

bool ScrapeServer::Reply(Client& client, absl::string_view body, Clock::time_point now) {
  client.state = State::kReplying;
  client.deadline = now + limits_.reply;
  client.output = HttpReply(client.verdict, body);
  return Send(client);
}

bool ScrapeServer::Send(Client& client) const {
  while (client.sent < client.output.size()) {
    const ssize_t count = send(client.fd.get(), client.output.data() + client.sent,
                               client.output.size() - client.sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    client.sent += static_cast<size_t>(count);
  }
  // What the client has said and nobody has read would turn the end into a reset, which may
  // overtake the reply.
  shutdown(client.fd.get(), SHUT_WR);
  char rest[4096];
  for (int i = 0; i < 16 && recv(client.fd.get(), rest, sizeof(rest), MSG_DONTWAIT) > 0; ++i) {
  }
  return false;
}

void ScrapeServer::Gather() {
  const bool wanted = std::any_of(clients_.begin(), clients_.end(), [](const Client& client) {
    return client.state == State::kGathering;
  });
  if (!wanted || gathering_.joinable()) return;
  for (Client& client : clients_) client.waits_for_next = false;
  gathering_ = std::thread([this] {
    Exposition found = gather_();
    absl::MutexLock lock(&mutex_);
    found_ = std::move(found);
    gathered_.Signal();
  });
}

void ScrapeServer::OnGathered(Clock::time_point now) {
  gathered_.Drain();
  gathering_.join();
  std::optional<Exposition> found;
  {
    absl::MutexLock lock(&mutex_);
    found = std::exchange(found_, std::nullopt);
  }
  if (!found.has_value()) return;
  std::optional<std::string> texts[2];  // by format
  for (auto client = clients_.begin(); client != clients_.end();) {
    bool keep = true;
    if (client->state == State::kGathering && !client->waits_for_next) {
      std::optional<std::string>& text = texts[static_cast<size_t>(client->verdict.format)];
      if (!text.has_value()) text = found->Text(client->verdict.format);
      keep = Reply(*client, *text, now);
    }
    client = keep ? std::next(client) : clients_.erase(client);
  }
}

}  // namespace vhost::ctl
