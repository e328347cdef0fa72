// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Answers scrapers over HTTP. One thread moves all bytes and never waits for a client; another
// gathers, one scrape at a time, and all who wait by then get what it found. A client has a request
// of bounded size, a deadline, and one reply.
//
//   reading --head complete--> gathering --done--> replying --taken--> closed
//       '---anything wrong-------------------------^
//
// Thread safety: one call at a time.
#pragma once

#include <chrono>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "kernel-abi/event_fd.h"
#include "kernel-abi/unique_fd.h"
#include "src/vhostctl/metrics/exposition.h"
#include "src/vhostctl/metrics/http_request.h"
#include "src/vhostctl/metrics/listen_address.h"

namespace vhost::ctl {

struct ScrapeLimits {
  size_t most_clients = 32;  // one more gets 503
  std::chrono::milliseconds request{5'000};
  std::chrono::milliseconds gather{30'000};  // two of them: one may be under way already
  std::chrono::milliseconds reply{30'000};
};

class ScrapeServer {
 public:
  // `gather` is called on a thread of the server's, never twice at a time.
  static absl::StatusOr<std::unique_ptr<ScrapeServer>> Create(ListeningSocket socket,
                                                              std::function<Exposition()> gather,
                                                              const ScrapeLimits& limits = {});
  // Waits for a gathering that is under way.
  ~ScrapeServer();
  ScrapeServer(const ScrapeServer&) = delete;
  ScrapeServer& operator=(const ScrapeServer&) = delete;

  // Serves until `stop` is readable.
  absl::Status Run(int stop);

 private:
  using Clock = std::chrono::steady_clock;
  enum class State { kReading, kGathering, kReplying };
  struct Client {
    kernel_abi::UniqueFd fd;
    Clock::time_point deadline;
    State state = State::kReading;
    std::string input;
    std::string output;
    size_t sent = 0;
    HttpVerdict verdict;
    bool waits_for_next = false;  // came while a scrape was under way that began before
  };

  ScrapeServer(ListeningSocket socket, std::function<Exposition()> gather,
               const ScrapeLimits& limits, kernel_abi::EventFd gathered)
      : socket_(std::move(socket)),
        gather_(std::move(gather)),
        limits_(limits),
        gathered_(std::move(gathered)) {}

  void Accept(Clock::time_point now);
  // False: close it.
  bool Advance(Client& client, Clock::time_point now);
  bool Read(Client& client, Clock::time_point now);
  bool Send(Client& client) const;
  bool Reply(Client& client, absl::string_view body, Clock::time_point now);
  // Begins a scrape if somebody waits for one and none is under way.
  void Gather();
  void OnGathered(Clock::time_point now);

  const ListeningSocket socket_;
  const std::function<Exposition()> gather_;
  const ScrapeLimits limits_;
  const kernel_abi::EventFd gathered_;
  std::list<Client> clients_;
  Clock::time_point accept_again_;  // after fds had run out
  std::thread gathering_;           // joinable: under way
  absl::Mutex mutex_;
  std::optional<Exposition> found_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace vhost::ctl
