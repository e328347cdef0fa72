// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "kernel-abi/tun.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernel-abi/bit_names.h"

namespace kernel_abi {
namespace {

constexpr BitName kFlagNames[] = {
    {0, "IFF_TUN"},          {1, "IFF_TAP"},           {4, "IFF_NAPI"},
    {5, "IFF_NAPI_FRAGS"},   {6, "IFF_NO_CARRIER"},    {8, "IFF_MULTI_QUEUE"},
    {9, "IFF_ATTACH_QUEUE"}, {10, "IFF_DETACH_QUEUE"}, {11, "IFF_PERSIST"},
    {12, "IFF_NO_PI"},       {13, "IFF_ONE_QUEUE"},    {14, "IFF_VNET_HDR"},
    {15, "IFF_TUN_EXCL"},
};

constexpr BitName kOffloadNames[] = {
    {0, "CSUM"},
    {1, "TSO4"},
    {2, "TSO6"},
    {3, "TSO_ECN"},
    {4, "UFO"},
    {5, "USO4"},
    {6, "USO6"},
    {7, "UDP_TUNNEL_GSO"},
    {8, "UDP_TUNNEL_GSO_CSUM"},
};

}  // namespace

bool IsInterfaceName(absl::string_view name) {
  if (name.empty() || name.size() >= IFNAMSIZ || name == "." || name == "..") return false;
  for (const char c : name) {
    // dev_valid_name(): what would not stand as one word or would be a path.
    if (c == '/' || c == ':' || c == ' ' || (c >= '\t' && c <= '\r') || c == '\0') return false;
  }
  return true;
}

ifreq InterfaceRequest(absl::string_view name, short flags) {
  ifreq request = {};
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  request.ifr_flags = flags;
  return request;
}

std::string InterfaceName(const ifreq& request) {
  return std::string(request.ifr_name, ::strnlen(request.ifr_name, IFNAMSIZ));
}

std::string DescribeHardwareAddress(const ifreq& request) {
  const auto* mac = reinterpret_cast<const unsigned char*>(request.ifr_hwaddr.sa_data);
  return absl::StrFormat("name=%s mac=%02x:%02x:%02x:%02x:%02x:%02x", InterfaceName(request),
                         mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

std::string DescribeOffloads(unsigned offloads) {
  return offloads == 0 ? "none" : BitNames(offloads, kOffloadNames, " ");
}

MacFilter::MacFilter(std::vector<Mac> addresses, bool all_multicast)
    : count_(addresses.size()), all_multicast_(all_multicast) {
  const uint16_t header[2] = {static_cast<uint16_t>(all_multicast ? TUN_FLT_ALLMULTI : 0),
                              static_cast<uint16_t>(addresses.size())};
  bytes_.resize(sizeof(header) + addresses.size() * sizeof(Mac));
  std::memcpy(bytes_.data(), header, sizeof(header));
  for (size_t i = 0; i < addresses.size(); ++i) {
    std::memcpy(bytes_.data() + sizeof(header) + i * sizeof(Mac), addresses[i].data(), sizeof(Mac));
  }
}

std::string Describe(const MacFilter& filter) {
  return absl::StrCat(filter.size(), " addresses", filter.all_multicast() ? ", all multicast" : "");
}

namespace internal {
std::string DescribeOffloadsArgument(const Offloads& offloads) {
  return DescribeOffloads(offloads.value);
}
}  // namespace internal

}  // namespace kernel_abi

std::string Describe(const ifreq& request) {
  const auto flags = static_cast<uint16_t>(request.ifr_flags);
  return absl::StrCat("name=", kernel_abi::InterfaceName(request), " flags=",
                      flags == 0 ? "0" : kernel_abi::BitNames(flags, kernel_abi::kFlagNames, "|"));
}
