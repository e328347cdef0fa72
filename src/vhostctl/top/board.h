// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What `top` shows, without how: a row for each queue that is served, for each device that has
// none, and for each that can only be seen from outside; with what it did lately. Made from one
// sample of the reports after the other.
//
// Thread safety: none; one call at a time.
#pragma once

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "src/vhostctl/foreign/process.h"
#include "src/vhostctl/gather.h"
#include "src/vhostctl/rates.h"

namespace vhost::ctl::top {

struct Sample {
  Gathered gathered;
  std::vector<ForeignProcess> foreign;
  std::chrono::steady_clock::time_point foreign_when;  // they were looked at
  absl::Time when;                                     // for people
};

struct Row {
  std::string key;    // the same from sample to sample, and no other row's
  QueueRates rates;   // of a device without queues: its names and its CPU time alone
  std::string state;  // "no progress", "paused"; empty: nothing to say
  int badness = 0;    // 0: nothing is the matter; the worse the larger
  std::string cause;  // of the state
  std::string backend;
  std::string reason;       // why not the backend that is preferred; empty: it is that one
  std::deque<double> past;  // what it did per second, the latest last
};

struct Board {
  absl::Time when;
  std::vector<Row> rows;  // in the order of VM, process, device, queue
  int vms = 0;
  int devices = 0;
  std::vector<std::string> silent;  // "SOCKET: why": processes that did not answer
};

// Packets where they are counted, else chains given back.
std::optional<double> Work(const QueueRates& rates);

class BoardMaker {
 public:
  static constexpr size_t kMostPast = 240;  // samples

  // `wanted`: [VM/]DEVICE; empty: all.
  explicit BoardMaker(std::string wanted) : wanted_(std::move(wanted)) {}

  // Rates come with the second sample; until then a board has no rows.
  Board Next(const Sample& sample);

 private:
  void AddQueues(const Sample& sample, std::vector<Row>* rows) const;
  void AddIdleDevices(const Sample& sample, std::vector<Row>* rows) const;
  void AddForeign(const Sample& sample, std::vector<Row>* rows) const;
  void Remember(std::vector<Row>* rows);

  const std::string wanted_;
  std::optional<Sample> before_;
  std::map<std::string, std::deque<double>> past_;  // by key
};

}  // namespace vhost::ctl::top
