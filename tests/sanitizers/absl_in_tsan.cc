// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// ThreadSanitizer sees what is compiled with it and the C library's functions. A distribution's
// Abseil is neither, so its locks would order nothing in TSan's eyes, and every use of one would be
// reported as a race. The linker sends our calls of them here (--wrap,
// cmake/thread_sanitizer.cmake), where TSan is told what they order. Linked into builds with
// LIBVHOST_SANITIZE=thread only.
//
// The names are those of Debian 12's Abseil (inline namespace debian3). With another one the wraps
// match nothing, and TSan reports false races: link an Abseil that was built with TSan then.
#include <sanitizer/tsan_interface.h>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

// Of TSan's run time; no header declares them.
extern "C" void AnnotateIgnoreReadsBegin(const char* file, int line);
extern "C" void AnnotateIgnoreReadsEnd(const char* file, int line);

namespace {

// Whoever unlocks a mutex evaluates the conditions that others wait for, still holding it, but
// after we told TSan that it was released: those reads must not count.
class IgnoreReads {
 public:
  IgnoreReads() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
  ~IgnoreReads() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
};

}  // namespace

// NOLINTBEGIN(bugprone-reserved-identifier): the linker's names.
extern "C" {

void __real__ZN4absl7debian35Mutex4LockEv(absl::Mutex* mutex);
void __real__ZN4absl7debian35Mutex6UnlockEv(absl::Mutex* mutex);
void __real__ZN4absl7debian35Mutex10ReaderLockEv(absl::Mutex* mutex);
void __real__ZN4absl7debian35Mutex12ReaderUnlockEv(absl::Mutex* mutex);
bool __real__ZN4absl7debian35Mutex7TryLockEv(absl::Mutex* mutex);
void __real__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE(absl::Mutex* mutex,
                                                           const absl::Condition* condition);
bool __real__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE(
    absl::Mutex* mutex, const absl::Condition* condition, absl::Duration timeout);
void __real__ZN4absl7debian312Notification6NotifyEv(absl::Notification* notification);
void __real__ZNK4absl7debian312Notification19WaitForNotificationEv(
    const absl::Notification* notification);
bool __real__ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE(
    const absl::Notification* notification, absl::Duration timeout);

void __wrap__ZN4absl7debian35Mutex4LockEv(absl::Mutex* mutex) {
  __real__ZN4absl7debian35Mutex4LockEv(mutex);
  __tsan_acquire(mutex);
}

void __wrap__ZN4absl7debian35Mutex6UnlockEv(absl::Mutex* mutex) {
  __tsan_release(mutex);
  const IgnoreReads ignore;
  __real__ZN4absl7debian35Mutex6UnlockEv(mutex);
}

// Readers are ordered among each other too, which is more than there is: a race between two of them
// (one writes what it may only read) can go unseen.
void __wrap__ZN4absl7debian35Mutex10ReaderLockEv(absl::Mutex* mutex) {
  __real__ZN4absl7debian35Mutex10ReaderLockEv(mutex);
  __tsan_acquire(mutex);
}

void __wrap__ZN4absl7debian35Mutex12ReaderUnlockEv(absl::Mutex* mutex) {
  __tsan_release(mutex);
  const IgnoreReads ignore;
  __real__ZN4absl7debian35Mutex12ReaderUnlockEv(mutex);
}

bool __wrap__ZN4absl7debian35Mutex7TryLockEv(absl::Mutex* mutex) {
  const bool locked = __real__ZN4absl7debian35Mutex7TryLockEv(mutex);
  if (locked) __tsan_acquire(mutex);
  return locked;
}

void __wrap__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE(absl::Mutex* mutex,
                                                           const absl::Condition* condition) {
  __tsan_release(mutex);
  {
    const IgnoreReads ignore;
    __real__ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE(mutex, condition);
  }
  __tsan_acquire(mutex);
}

bool __wrap__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE(
    absl::Mutex* mutex, const absl::Condition* condition, absl::Duration timeout) {
  __tsan_release(mutex);
  bool holds = false;
  {
    const IgnoreReads ignore;
    holds = __real__ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE(
        mutex, condition, timeout);
  }
  __tsan_acquire(mutex);
  return holds;
}

void __wrap__ZN4absl7debian312Notification6NotifyEv(absl::Notification* notification) {
  __tsan_release(notification);
  __real__ZN4absl7debian312Notification6NotifyEv(notification);
}

void __wrap__ZNK4absl7debian312Notification19WaitForNotificationEv(
    const absl::Notification* notification) {
  __real__ZNK4absl7debian312Notification19WaitForNotificationEv(notification);
  __tsan_acquire(const_cast<absl::Notification*>(notification));
}

bool __wrap__ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE(
    const absl::Notification* notification, absl::Duration timeout) {
  const bool is_notified =
      __real__ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE(
          notification, timeout);
  if (is_notified) __tsan_acquire(const_cast<absl::Notification*>(notification));
  return is_notified;
}

}  // extern "C"
// NOLINTEND(bugprone-reserved-identifier)
