// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "vhost/host/link.h"

// Before netlink's headers, which bring the kernel's.
#include <net/if.h>

#include <netlink/errno.h>
#include <netlink/netlink.h>
#include <netlink/route/link.h>
#include <netlink/route/link/bridge.h>
#include <netlink/socket.h>

#include <cerrno>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "kernel-abi/system_error.h"

namespace vhost {
namespace {

// What rtnetlink asks for, as `ip monitor link` does.
constexpr int kLinkGroup = 1;  // RTNLGRP_LINK

// libnl turns the kernel's errno into codes of its own; back again, where one stands for one.
int ErrnoOf(int nl_error) {
  switch (-nl_error) {
    case NLE_PERM:
      return EPERM;
    case NLE_NOACCESS:
      return EACCES;
    case NLE_NODEV:
    case NLE_OBJ_NOTFOUND:
      return ENODEV;
    case NLE_BUSY:
      return EBUSY;
    case NLE_INVAL:
      return EINVAL;
    case NLE_RANGE:
      return ERANGE;
    case NLE_EXIST:
      return EEXIST;
    case NLE_NOMEM:
      return ENOMEM;
    case NLE_OPNOTSUPP:
      return EOPNOTSUPP;
    case NLE_AGAIN:
      return EAGAIN;
    default:
      return EIO;
  }
}

const char* Advice(int error) {
  switch (error) {
    case EPERM:
    case EACCES:
      return "it needs CAP_NET_ADMIN in the network namespace";
    case ENODEV:
      return "there is no such interface in this network namespace (ip link)";
    case EBUSY:
      return "the interface is a port of another bridge";
    default:
      return "";
  }
}

absl::Status LinkError(int nl_error, absl::string_view interface, absl::string_view call,
                       std::string arguments = {}) {
  const int error = ErrnoOf(nl_error);
  absl::Status status = kernel_abi::MakeSystemError({.error = error,
                                                     .subject = std::string(interface),
                                                     .call = std::string(call),
                                                     .arguments = std::move(arguments)},
                                                    Advice(error));
  // EIO is ours: nothing of the kernel's is known then but what libnl says.
  return error == EIO ? kernel_abi::AddAdvice(status, nl_geterror(nl_error)) : status;
}

absl::StatusOr<Links::Socket> Connect() {
  Links::Socket socket(nl_socket_alloc());
  if (socket == nullptr) return LinkError(-NLE_NOMEM, "rtnetlink", "nl_socket_alloc");
  if (const int error = nl_connect(socket.get(), 0 /* NETLINK_ROUTE */); error < 0) {
    return LinkError(error, "rtnetlink", "socket");
  }
  return socket;
}

LinkState StateOf(rtnl_link* link) {
  const unsigned flags = rtnl_link_get_flags(link);
  const char* name = rtnl_link_get_name(link);
  return {.index = rtnl_link_get_ifindex(link),
          .name = name != nullptr ? name : "",
          .up = (flags & IFF_UP) != 0,
          .running = (flags & IFF_RUNNING) != 0,
          .mtu = static_cast<int>(rtnl_link_get_mtu(link)),
          .master = rtnl_link_get_master(link),
          .is_bridge = rtnl_link_is_bridge(link) != 0};
}

// Changes the interface as `set` says.
absl::Status Change(nl_sock* socket, const LinkState& state, absl::string_view call,
                    const std::string& arguments, const std::function<void(rtnl_link*)>& set) {
  rtnl_link* now = rtnl_link_alloc();
  rtnl_link* changes = rtnl_link_alloc();
  const absl::Cleanup free = [now, changes] {
    if (now != nullptr) rtnl_link_put(now);
    if (changes != nullptr) rtnl_link_put(changes);
  };
  if (now == nullptr || changes == nullptr) return LinkError(-NLE_NOMEM, state.name, call);
  rtnl_link_set_ifindex(now, state.index);
  set(changes);
  const int error = rtnl_link_change(socket, now, changes, 0);
  return error < 0 ? LinkError(error, state.name, call, arguments) : absl::OkStatus();
}

}  // namespace

void Links::Close::operator()(nl_sock* socket) const { nl_socket_free(socket); }

absl::StatusOr<Links> Links::Open() {
  absl::StatusOr<Socket> socket = Connect();
  if (!socket.ok()) return socket.status();
  return Links(*std::move(socket));
}

absl::StatusOr<LinkState> Links::Ask(int index, const std::string& name) {
  rtnl_link* link = nullptr;
  const int error =
      rtnl_link_get_kernel(socket_.get(), index, index > 0 ? nullptr : name.c_str(), &link);
  if (error < 0) {
    return LinkError(error, index > 0 ? absl::StrCat("interface ", index) : name, "RTM_GETLINK");
  }
  const absl::Cleanup free = [link] { rtnl_link_put(link); };
  return StateOf(link);
}

absl::StatusOr<LinkState> Links::Get(const std::string& name) { return Ask(0, name); }
absl::StatusOr<LinkState> Links::Get(int index) { return Ask(index, ""); }

absl::Status Links::Add(const std::string& name, const std::string& type) {
  rtnl_link* link = rtnl_link_alloc();
  if (link == nullptr) return LinkError(-NLE_NOMEM, name, "RTM_NEWLINK");
  const absl::Cleanup free = [link] { rtnl_link_put(link); };
  rtnl_link_set_name(link, name.c_str());
  int error = rtnl_link_set_type(link, type.c_str());
  if (error >= 0) error = rtnl_link_add(socket_.get(), link, NLM_F_CREATE | NLM_F_EXCL);
  return error < 0 ? LinkError(error, name, "RTM_NEWLINK", absl::StrCat("type=", type))
                   : absl::OkStatus();
}

absl::Status Links::SetUp(const std::string& name, bool up) {
  const absl::StatusOr<LinkState> state = Get(name);
  if (!state.ok()) return state.status();
  if (state->up == up) return absl::OkStatus();
  return Change(socket_.get(), *state, "RTM_NEWLINK", up ? "up" : "down", [up](rtnl_link* link) {
    if (up) {
      rtnl_link_set_flags(link, IFF_UP);
    } else {
      rtnl_link_unset_flags(link, IFF_UP);
    }
  });
}

absl::Status Links::SetMtu(const std::string& name, int mtu) {
  const absl::StatusOr<LinkState> state = Get(name);
  if (!state.ok()) return state.status();
  if (state->mtu == mtu) return absl::OkStatus();
  return Change(socket_.get(), *state, "RTM_NEWLINK", absl::StrCat("mtu=", mtu),
                [mtu](rtnl_link* link) { rtnl_link_set_mtu(link, static_cast<unsigned>(mtu)); });
}

absl::Status Links::SetBridge(const std::string& name, const std::string& bridge) {
  const absl::StatusOr<LinkState> state = Get(name);
  if (!state.ok()) return state.status();
  int master = 0;
  if (!bridge.empty()) {
    const absl::StatusOr<LinkState> bridge_state = Get(bridge);
    if (!bridge_state.ok()) return bridge_state.status();
    if (!bridge_state->is_bridge) {
      return absl::InvalidArgumentError(absl::StrCat(bridge, ": is not a bridge"));
    }
    master = bridge_state->index;
  }
  if (state->master == master) return absl::OkStatus();
  return Change(socket_.get(), *state, "RTM_NEWLINK", absl::StrCat("master=", bridge),
                [master](rtnl_link* link) { rtnl_link_set_master(link, master); });
}

absl::StatusOr<std::unique_ptr<LinkWatch>> LinkWatch::Create(const std::string& name) {
  absl::StatusOr<Links> links = Links::Open();
  if (!links.ok()) return links.status();
  absl::StatusOr<Links::Socket> events = Connect();
  if (!events.ok()) return events.status();
  // What is told of its own accord carries no sequence number of ours.
  nl_socket_disable_seq_check(events->get());
  // Each message is looked at only for having come: the state is asked for afterwards, so that a
  // message lost (ENOBUFS) loses nothing.
  nl_socket_modify_cb(
      events->get(), NL_CB_VALID, NL_CB_CUSTOM, [](nl_msg*, void*) { return int{NL_OK}; }, nullptr);
  if (const int error = nl_socket_add_membership(events->get(), kLinkGroup); error < 0) {
    return LinkError(error, name, "NETLINK_ADD_MEMBERSHIP", "RTNLGRP_LINK");
  }
  if (const int error = nl_socket_set_nonblocking(events->get()); error < 0) {
    return LinkError(error, name, "O_NONBLOCK");
  }
  // After joining, so that no change falls between.
  absl::StatusOr<LinkState> state = links->Get(name);
  if (!state.ok()) return state.status();
  return absl::WrapUnique(new LinkWatch(*std::move(links), *std::move(events), *std::move(state)));
}

int LinkWatch::fd() const { return nl_socket_get_fd(events_.get()); }

bool LinkWatch::Read() {
  int result = 0;
  do {
    result = nl_recvmsgs_default(events_.get());
    // Overrun: what was lost is made good by asking, below.
  } while (result >= 0 || -result == NLE_NOMEM);
  if (!state_.has_value()) return false;
  // By index, since names are given again; a name may also have changed.
  absl::StatusOr<LinkState> now = links_.Get(state_->index);
  if (now.ok()) {
    if (*now == *state_) return false;
    state_ = *std::move(now);
    return true;
  }
  if (kernel_abi::GetErrno(now.status()) != ENODEV) return false;
  state_.reset();
  return true;
}

}  // namespace vhost
