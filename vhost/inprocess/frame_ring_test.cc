// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The io_uring engine, and the queues that use it, with a socket for a TAP: it keeps the borders of
// frames, too, and can be full and empty at will.
#include "vhost/inprocess/frame_ring.h"

#include <gmock/gmock.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"
#include "tests/fakes/driver_ring.h"
#include "vhost/inprocess/net_receive.h"
#include "vhost/inprocess/net_transmit.h"

namespace vhost::inprocess {
namespace {

using kernel_abi::UniqueFd;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr size_t kHeader = sizeof(kernel_abi::VirtioNetHdr);

class FrameRingTest : public testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    tap_.Reset(ends[0]);
    wire_.Reset(ends[1]);
    auto ring = FrameRing::Create(kernel_abi::LinuxKernel(), tap_.get());
    if (!ring.ok()) GTEST_SKIP() << "skipped: no io_uring: " << ring.status();
    ring_ = *std::move(ring);
  }

  // The next frame on the other side; empty: none.
  std::string Read() const {
    std::string frame(1 << 17, '\0');
    const ssize_t size = ::recv(wire_.get(), frame.data(), frame.size(), 0);
    frame.resize(size > 0 ? static_cast<size_t>(size) : 0);
    return frame;
  }
  void Write(const std::string& frame) const {
    ASSERT_EQ(::send(wire_.get(), frame.data(), frame.size(), 0),
              static_cast<ssize_t>(frame.size()));
  }

  UniqueFd tap_, wire_;
  std::unique_ptr<FrameRing> ring_;
};

TEST_F(FrameRingTest, WritesAndReadsFramesInOrder) {
  std::string frames[3] = {"one", "the second", "3"};
  const iovec second[2] = {{frames[1].data(), 4}, {frames[1].data() + 4, 6}};
  const iovec first{frames[0].data(), 3};
  const iovec third{frames[2].data(), 1};
  ring_->AddWrite({&first, 1});
  ring_->AddWrite(second);
  ring_->AddWrite({&third, 1});
  EXPECT_EQ(ring_->queued(), 3u);
  EXPECT_THAT(ring_->Run(), ElementsAre(3, 10, 1));
  EXPECT_EQ(ring_->queued(), 0u);
  for (const std::string& frame : frames) EXPECT_EQ(Read(), frame);

  Write("from");
  Write("the host");
  char into[3][16];
  const iovec pieces[3] = {{into[0], 16}, {into[1], 16}, {into[2], 16}};
  for (const iovec& piece : pieces) ring_->AddRead({&piece, 1});
  EXPECT_THAT(ring_->Run(), ElementsAre(4, 8, -EAGAIN));
  EXPECT_EQ(std::string(into[1], 8), "the host");
}

TEST_F(FrameRingTest, AWriteThatFailsKeepsThoseBehindItFromOvertaking) {
  std::string frame(10'000, 'x');
  size_t sent = 0;
  std::vector<int> results;
  std::vector<iovec> pieces(FrameRing::kMaxBatch, iovec{frame.data(), frame.size()});
  do {
    for (const iovec& piece : pieces) ring_->AddWrite({&piece, 1});
    const auto run = ring_->Run();
    results.assign(run.begin(), run.end());
    for (const int result : results) sent += result > 0 ? 1 : 0;
  } while (results.back() > 0);
  const auto full = std::find(results.begin(), results.end(), -EAGAIN);
  ASSERT_NE(full, results.end());
  EXPECT_THAT(std::vector<int>(results.begin(), full), Each(10'000));
  EXPECT_THAT(std::vector<int>(full + 1, results.end()), Each(FrameRing::kNotTried));
  for (; sent > 0; --sent) EXPECT_EQ(Read().size(), frame.size());
  EXPECT_EQ(Read(), "");
}

TEST_F(FrameRingTest, LetsGoOfTheFileAtOnce) {
  tap_.Reset();
  EXPECT_LT(::recv(wire_.get(), nullptr, 0, MSG_PEEK), 0);
  ring_.reset();
  char byte;
  EXPECT_EQ(::recv(wire_.get(), &byte, 1, 0), 0) << "the other end is still open";
}

// ---- Where there is none -----------------------------------------------------------------------

class RefusingKernel final : public kernel_abi::Kernel {
 public:
  explicit RefusingKernel(int error) : error_(error) {}
  int Open(const char*, int) override { return -ENOENT; }
  int Ioctl(int, unsigned long, uintptr_t) override { return -ENOTTY; }
  int EventFd(unsigned, int) override { return -EMFILE; }
  ssize_t Read(int, void*, size_t) override { return -EBADF; }
  ssize_t Write(int, const void*, size_t) override { return -EBADF; }
  int Duplicate(int) override { return -EMFILE; }
  int MemFd(const char*, unsigned) override { return -EMFILE; }
  int Truncate(int, off_t) override { return -EBADF; }
  int Map(size_t, int, int, int, off_t, void**) override { return -ENOMEM; }
  int Unmap(void*, size_t) override { return -EINVAL; }
  pid_t ThreadId() override { return 1; }
  int SetAffinity(pid_t, const cpu_set_t&) override { return -EPERM; }
  int SetNice(pid_t, int) override { return -EPERM; }
  int IoUringSetup(uint32_t, io_uring_params&) override { return -error_; }

 private:
  const int error_;
};

TEST(FrameRingRefused, SaysWhyAndWhatToDo) {
  for (const auto& [error, advice] :
       {std::pair{ENOSYS, "this kernel has none"}, {EPERM, "kernel.io_uring_disabled"}}) {
    RefusingKernel kernel(error);
    const auto ring = FrameRing::Create(kernel, 0);
    ASSERT_FALSE(ring.ok());
    EXPECT_EQ(kernel_abi::GetErrno(ring.status()), error);
    EXPECT_THAT(std::string(ring.status().message()), HasSubstr("io_uring_setup"));
    EXPECT_THAT(std::string(ring.status().message()), HasSubstr(advice));
  }
}

// From here on this process gets EPERM for a system call.
bool Forbid(long number) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog program = {.len = std::size(filter), .filter = filter};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

// What `body` says in a process of its own: 0 is good, and 77 means that nothing can be said.
template <typename Body>
int InAnotherProcess(const Body& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(FrameRingTest, ASeccompFilterIsARefusal) {
  const int result = InAnotherProcess([&] {
    if (!Forbid(SYS_io_uring_setup)) return 77;
    const auto ring = FrameRing::Create(kernel_abi::LinuxKernel(), tap_.get());
    return ring.ok() || kernel_abi::GetErrno(ring.status()) != EPERM ? 1 : 0;
  });
  if (result == 77) GTEST_SKIP() << "skipped: no seccomp filters here";
  EXPECT_EQ(result, 0);
}

// ---- The queues --------------------------------------------------------------------------------

class QueuesByRingTest : public FrameRingTest {
 protected:
  std::unique_ptr<Virtqueue> MakeQueue() {
    return Virtqueue::Create(kernel_abi::LinuxKernel(),
                             *Vring::Create(driver_.setup(), driver_.layout(), *memory_), 0,
                             {VirtioFeature::kVersion1}, memory_, -1);
  }
  TransmitQueue MakeTransmit(FlowMerge::Kinds merge = {}) {
    return {MakeQueue(),
            {.tap_fd = tap_.get(), .merge = merge, .ring = ring_.get()},
            *scratch_,
            counters_};
  }
  ReceiveQueue MakeReceive(bool mergeable) {
    return {MakeQueue(),
            {.tap_fd = tap_.get(),
             .mergeable = mergeable,
             .most_frame_bytes = 1518,
             .ring = ring_.get()},
            *scratch_,
            counters_};
  }
  // A frame with its header, told from others by its number.
  static std::string Frame(int number, size_t bytes = 1000) {
    std::string frame(kHeader + bytes, static_cast<char>('a' + number % 26));
    frame.replace(0, kHeader, std::string(kHeader, '\0'));
    frame.replace(kHeader + 14, 8, absl::StrCat(10'000'000 + number));
    return frame;
  }
  static void ExpectFrame(const std::string& is, int number) {
    // The TAP's side of num_buffers is ours to fill in.
    EXPECT_EQ(is.substr(kHeader), Frame(number).substr(kHeader));
  }

  fakes::GuestRam ram_{64 << 20};
  std::shared_ptr<const MemoryTable> memory_ = ram_.table();
  fakes::DriverRing driver_{ram_, {.size = 256}};
  std::unique_ptr<NetScratch> scratch_ = std::make_unique<NetScratch>();
  NetCounters counters_;
};

TEST_F(QueuesByRingTest, SendsInOrderThroughBackPressure) {
  for (const bool merge : {false, true}) {
    TransmitQueue queue = MakeTransmit({.tcp4 = merge});
    int published = 0;
    int received = 0;
    bool was_blocked = false;
    while (received < 1000) {
      for (; published < 1000 && published < received + 250; ++published) {
        driver_.Chain().Readable(Frame(published)).Publish();
      }
      TransmitQueue::Outcome outcome;
      while ((outcome = queue.Burst()) == TransmitQueue::Outcome::kWorked) continue;
      was_blocked = was_blocked || outcome == TransmitQueue::Outcome::kBlocked;
      for (std::string frame = Read(); !frame.empty(); frame = Read()) {
        ExpectFrame(frame, received++);
      }
      while (driver_.TakeUsed().has_value()) continue;
    }
    EXPECT_TRUE(was_blocked);
    queue.PutBackUnsent();
    EXPECT_EQ(queue.queue().in_flight(), 0);
    driver_.Forget();
  }
  EXPECT_EQ(counters_.packets, 2000u);
}

TEST_F(QueuesByRingTest, WhatWasNotSentIsPutBack) {
  for (int i = 0; i < 250; ++i) driver_.Chain().Readable(Frame(i, 4000)).Publish();
  int received = 0;
  {
    TransmitQueue queue = MakeTransmit();
    while (queue.Burst() == TransmitQueue::Outcome::kWorked) continue;
    queue.PutBackUnsent();
    EXPECT_EQ(queue.queue().in_flight(), 0);
    EXPECT_LT(queue.queue().base(), 250u);
    for (; !Read().empty(); ++received) continue;
    EXPECT_EQ(queue.queue().base(), static_cast<VringBase>(received));
  }
  EXPECT_EQ(counters_.packets, static_cast<uint64_t>(received));
  EXPECT_EQ(counters_.dropped(NetDrop::kStopped), 0u);
}

TEST_F(QueuesByRingTest, FramesThatAreRefusedStopNobodyElse) {
  // The socket takes no frame as large as its buffer.
  const int room = 1;
  ::setsockopt(tap_.get(), SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
  TransmitQueue queue = MakeTransmit();
  for (int i = 0; i < 60; ++i) {
    driver_.Chain().Readable(Frame(i, i % 3 == 0 ? 60'000 : 1000)).Publish();
  }
  int received = 0;
  for (int rounds = 0; rounds < 100; ++rounds) {
    queue.Burst();
    for (std::string frame = Read(); !frame.empty(); frame = Read()) {
      ++received;
      ExpectFrame(frame, received / 2 * 3 + (received % 2 == 1 ? 1 : -1));
    }
  }
  EXPECT_EQ(received, 40);
  EXPECT_EQ(counters_.dropped(NetDrop::kRefused), 20u);
}

TEST_F(QueuesByRingTest, ReceivesInOrderWhileFramesKeepComing) {
  for (const bool mergeable : {true, false}) {
    ReceiveQueue queue = MakeReceive(mergeable);
    constexpr int kFrames = 3000;
    std::atomic<bool> failed = false;
    std::thread host([&] {
      for (int i = 0; i < kFrames && !failed;) {
        const std::string frame = Frame(i);
        if (::send(wire_.get(), frame.data(), frame.size(), 0) > 0) {
          ++i;
        } else {
          std::this_thread::yield();
        }
      }
    });
    int posted = 0;
    int received = 0;
    while (received < kFrames && !failed) {
      for (; posted < received + 200; ++posted) driver_.Chain().Writable(2048).Publish();
      if (queue.Burst() == ReceiveQueue::Outcome::kIdle) std::this_thread::yield();
      while (const auto used = driver_.TakeUsed()) {
        const std::string frame = used->text();
        failed = frame.size() != Frame(0).size() ||
                 frame.substr(kHeader) != Frame(received).substr(kHeader);
        ASSERT_FALSE(failed && received >= 0) << received;
        EXPECT_EQ(frame[kHeader - 2], 1);
        ++received;
      }
      if (posted > 20'000) break;
    }
    host.join();
    EXPECT_EQ(received, kFrames);
    queue.PutBackUnused();
    EXPECT_EQ(queue.queue().in_flight(), 0);
    driver_.Forget();
  }
}

TEST_F(QueuesByRingTest, ALongFrameInABurstIsDroppedAlone) {
  ReceiveQueue queue = MakeReceive(/*mergeable=*/true);
  for (int i = 0; i < 100; ++i) driver_.Chain().Writable(1600).Publish();
  std::vector<std::string> received;
  const auto run = [&] {
    while (queue.Burst() == ReceiveQueue::Outcome::kWorked) continue;
    while (const auto used = driver_.TakeUsed()) received.push_back(used->text());
  };
  for (int i = 0; i < 20; ++i) Write(Frame(i, i == 10 ? 3000 : 1000));
  run();
  ASSERT_EQ(received.size(), 19u);
  for (int i = 0; i < 19; ++i) ExpectFrame(received[static_cast<size_t>(i)], i < 10 ? i : i + 1);
  EXPECT_EQ(counters_.dropped(NetDrop::kLongFrame), 1u);
}

TEST_F(QueuesByRingTest, GoOnBySystemCallsWhenTheKernelChangesItsMind) {
  const int result = InAnotherProcess([&] {
    TransmitQueue transmit = MakeTransmit();
    for (int i = 0; i < 20; ++i) driver_.Chain().Readable(Frame(i)).Publish();
    if (!Forbid(SYS_io_uring_enter)) return 77;
    while (transmit.Burst() == TransmitQueue::Outcome::kWorked) continue;
    if (ring_->broken().ok() || counters_.packets != 20) return 1;
    for (int i = 0; i < 20; ++i) {
      if (Read() != Frame(i)) return 2;
    }
    // The other direction, which uses the same ring.
    driver_.Forget();
    ReceiveQueue receive = MakeReceive(/*mergeable=*/true);
    for (int i = 0; i < 60; ++i) driver_.Chain().Writable(2048).Publish();
    for (int i = 0; i < 20; ++i) Write(Frame(i));
    while (receive.Burst() == ReceiveQueue::Outcome::kWorked) continue;
    return counters_.packets == 40 ? 0 : 3;
  });
  if (result == 77) GTEST_SKIP() << "skipped: no seccomp filters here";
  EXPECT_EQ(result, 0);
}

}  // namespace
}  // namespace vhost::inprocess
