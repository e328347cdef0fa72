# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#
# For builds with LIBVHOST_SANITIZE=thread: tells ThreadSanitizer what Abseil's locks order. See
# tests/sanitizers/absl_in_tsan.cc.
add_library(absl_in_tsan STATIC ${PROJECT_SOURCE_DIR}/tests/sanitizers/absl_in_tsan.cc)
target_compile_options(absl_in_tsan PRIVATE -fsanitize=thread)
target_link_libraries(absl_in_tsan PUBLIC absl::synchronization)

foreach(function
    _ZN4absl7debian35Mutex4LockEv
    _ZN4absl7debian35Mutex6UnlockEv
    _ZN4absl7debian35Mutex10ReaderLockEv
    _ZN4absl7debian35Mutex12ReaderUnlockEv
    _ZN4absl7debian35Mutex7TryLockEv
    _ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE
    _ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE
    _ZN4absl7debian312Notification6NotifyEv
    _ZNK4absl7debian312Notification19WaitForNotificationEv
    _ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE)
  # Also where nothing of the program's own locks: Abseil's shared libraries then do.
  target_link_options(libvhost_build INTERFACE -Wl,--wrap=${function} -Wl,-u,__wrap_${function})
endforeach()
target_link_libraries(libvhost_build INTERFACE absl_in_tsan)

# The rings are ordered by fences at the two places where virtio asks for a full barrier, which
# ThreadSanitizer does not model: it sees less order than there is, between words that are atomic
# anyway. g++ warns of each.
target_compile_options(libvhost_build INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-tsan>)
