// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest's sockets on a VsockDriver: what Linux does in a guest, as far as a device can see it.
// It keeps credit, answers requests for the ports it listens on, and collects what it receives.
//
//   VsockGuest guest(driver, [&] { mux.Poll(); });
//   auto* socket = guest.Connect(52);       guest.Listen(80);
//   guest.Run();                            // the device and the guest, until nothing happens
//   socket->Send("hello");  ...  socket->received
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernel-abi/virtio.h"
#include "tests/fakes/vsock_driver.h"

namespace fakes {

class VsockGuest {
 public:
  using Header = kernel_abi::VirtioVsockHdr;

  struct Socket {
    VsockGuest* guest;
    uint32_t guest_port;
    uint32_t host_port;
    uint16_t type;
    bool established = false;
    bool reset = false;
    bool closed = false;  // the owner's note
    uint32_t peer_shutdown = 0;
    // What came. A socket that `reads` gives credit back for it.
    std::string received;
    std::vector<std::string> messages;  // of seqpacket
    std::string open_message;
    bool reads = true;
    uint32_t buffer = 256 * 1024;
    uint32_t received_count = 0;
    uint32_t forwarded = 0;
    uint32_t told = 0;
    uint32_t sent = 0;
    uint32_t peer_buffer = 0;
    uint32_t peer_forwarded = 0;
    int credit_requests = 0;
    int credit_updates = 0;
    std::vector<uint32_t> flags;  // of data packets
    std::vector<uint32_t> lengths;

    uint32_t credit() const {
      const uint32_t under_way = sent - peer_forwarded;
      return under_way > peer_buffer ? 0 : peer_buffer - under_way;
    }
    // Sends as much as credit and ring allow; how much. Of seqpacket: `ends` marks the last packet.
    size_t Send(const std::string& data, bool ends = true, size_t packet_bytes = 64 * 1024) {
      size_t done = 0;
      while (done < data.size()) {
        const size_t piece = std::min({data.size() - done, size_t{credit()}, packet_bytes});
        if (piece == 0) break;
        const bool last = ends && done + piece == data.size();
        Header header = Make(kernel_abi::kVsockOpRw);
        header.len = static_cast<uint32_t>(piece);
        if (type == kernel_abi::kVsockTypeSeqpacket && last) {
          header.flags = kernel_abi::kVsockSeqEom;
        }
        if (!guest->Put(header, std::as_bytes(std::span(data).subspan(done, piece)))) break;
        sent += header.len;
        done += piece;
      }
      return done;
    }
    // Sends all of it, with the device running in between; false if it gets stuck.
    bool SendAll(const std::string& data, size_t packet_bytes = 64 * 1024) {
      size_t done = 0;
      for (int idle = 0; done < data.size() && idle < 100;) {
        const size_t now = Send(data.substr(done), true, packet_bytes);
        done += now;
        idle = now == 0 ? idle + 1 : 0;
        guest->Run();
      }
      return done == data.size();
    }
    void Shutdown(uint32_t flags_in) {
      Header header = Make(kernel_abi::kVsockOpShutdown);
      header.flags = flags_in;
      guest->Put(header);
    }
    void Reset() {
      guest->Put(Make(kernel_abi::kVsockOpRst));
      reset = true;
    }
    // A packet of this socket, with the credit that it has.
    Header Make(uint16_t op) {
      Header header{};
      header.src_cid = guest->driver_.cid();
      header.dst_cid = kernel_abi::kVsockHostCid;
      header.src_port = guest_port;
      header.dst_port = host_port;
      header.type = type;
      header.op = op;
      header.buf_alloc = buffer;
      header.fwd_cnt = forwarded;
      told = forwarded;
      return header;
    }
    // Takes everything out of its buffer, and says so.
    void Read() {
      forwarded = received_count;
      guest->Put(Make(kernel_abi::kVsockOpCreditUpdate));
    }
  };

  VsockGuest(VsockDriver& driver, std::function<void()> run_device)
      : driver_(driver), run_device_(std::move(run_device)) {}

  Socket* Connect(uint32_t port, uint16_t type = kernel_abi::kVsockTypeStream,
                  uint32_t buffer = 256 * 1024) {
    Socket* socket = Add(next_port_++, port, type);
    socket->buffer = buffer;
    Put(socket->Make(kernel_abi::kVsockOpRequest));
    return socket;
  }
  void Listen(uint32_t port) { listening_.insert(port); }
  // The newest connection that came to a port; nullptr if none did.
  Socket* Accepted(uint32_t port) {
    const auto found = accepted_.find(port);
    return found == accepted_.end() ? nullptr : found->second;
  }
  template <typename See>
  void ForEachSocket(See see) {
    for (size_t i = 0; i < sockets_.size(); ++i) see(*sockets_[i]);
  }
  // Of a SHUTDOWN of both directions: whether it is answered at once, as Linux does when all was
  // read, or left to the owner.
  void SetResetsOnShutdown(bool resets) { resets_on_shutdown_ = resets; }
  // Buffer of the sockets that are made from now on for connections that come.
  void SetBuffer(uint32_t bytes) { buffer_ = bytes; }
  void SetReads(bool reads) { reads_ = reads; }

  bool Put(const Header& header, std::span<const std::byte> payload = {}) {
    for (int tries = 0; tries < 100; ++tries) {
      if (driver_.Send(header, payload)) return true;
      run_device_();
    }
    return false;
  }

  // Lets the device and the guest work until neither has anything to do.
  void Run(int quiet_rounds = 3) {
    for (int quiet = 0; quiet < quiet_rounds;) {
      run_device_();
      quiet = Receive() ? 0 : quiet + 1;
    }
  }
  // Takes what the device has sent; false if there was nothing.
  bool Receive() {
    bool any = false;
    while (std::optional<VsockDriver::Packet> packet = driver_.Receive()) {
      any = true;
      OnPacket(*packet);
    }
    return any;
  }

  // Packets that belong to no socket, resets mostly.
  std::vector<Header> strays;

 private:
  using Ports = std::pair<uint32_t, uint32_t>;  // guest, host

  Socket* Add(uint32_t guest_port, uint32_t host_port, uint16_t type) {
    auto socket = std::make_unique<Socket>();
    socket->guest = this;
    socket->guest_port = guest_port;
    socket->host_port = host_port;
    socket->type = type;
    socket->buffer = buffer_;
    socket->reads = reads_;
    Socket* raw = socket.get();
    current_[{guest_port, host_port}] = raw;
    sockets_.push_back(std::move(socket));
    return raw;
  }

  void OnPacket(const VsockDriver::Packet& packet) {
    const Header& header = packet.header;
    const auto found = current_.find({header.dst_port, header.src_port});
    Socket* socket = found == current_.end() ? nullptr : found->second;
    if (header.op == kernel_abi::kVsockOpRequest) {
      if (listening_.count(header.dst_port) == 0) {
        Header reset{};
        reset.src_cid = header.dst_cid;
        reset.dst_cid = header.src_cid;
        reset.src_port = header.dst_port;
        reset.dst_port = header.src_port;
        reset.type = header.type;
        reset.op = kernel_abi::kVsockOpRst;
        Put(reset);
        return;
      }
      socket = Add(header.dst_port, header.src_port, header.type);
      socket->established = true;
      socket->peer_buffer = header.buf_alloc;
      accepted_[header.dst_port] = socket;
      Put(socket->Make(kernel_abi::kVsockOpResponse));
      return;
    }
    if (socket == nullptr || socket->reset) {
      strays.push_back(header);
      return;
    }
    socket->peer_buffer = header.buf_alloc;
    socket->peer_forwarded = header.fwd_cnt;
    switch (header.op) {
      case kernel_abi::kVsockOpResponse:
        socket->established = true;
        break;
      case kernel_abi::kVsockOpRst:
        socket->reset = true;
        socket->established = false;
        break;
      case kernel_abi::kVsockOpShutdown:
        socket->peer_shutdown |= header.flags;
        // Linux resets once all was read.
        if (socket->peer_shutdown == 3 && resets_on_shutdown_) socket->Reset();
        break;
      case kernel_abi::kVsockOpCreditRequest:
        ++socket->credit_requests;
        Put(socket->Make(kernel_abi::kVsockOpCreditUpdate));
        break;
      case kernel_abi::kVsockOpCreditUpdate:
        ++socket->credit_updates;
        break;
      case kernel_abi::kVsockOpRw:
        OnData(*socket, packet);
        break;
      default:
        strays.push_back(header);
    }
  }

  void OnData(Socket& socket, const VsockDriver::Packet& packet) {
    const std::string text(reinterpret_cast<const char*>(packet.payload.data()),
                           packet.payload.size());
    socket.received_count += packet.header.len;
    socket.flags.push_back(packet.header.flags);
    socket.lengths.push_back(packet.header.len);
    if (text.size() != packet.header.len) strays.push_back(packet.header);
    if (socket.type == kernel_abi::kVsockTypeSeqpacket) {
      socket.open_message += text;
      if ((packet.header.flags & kernel_abi::kVsockSeqEom) != 0) {
        socket.messages.push_back(std::exchange(socket.open_message, ""));
      }
    } else {
      socket.received += text;
    }
    if (!socket.reads) return;
    socket.forwarded = socket.received_count;
    if (socket.forwarded - socket.told > socket.buffer / 4) {
      Put(socket.Make(kernel_abi::kVsockOpCreditUpdate));
    }
  }

  VsockDriver& driver_;
  const std::function<void()> run_device_;
  uint32_t next_port_ = 1024;
  uint32_t buffer_ = 256 * 1024;
  bool reads_ = true;
  bool resets_on_shutdown_ = true;
  std::set<uint32_t> listening_;
  std::map<uint32_t, Socket*> accepted_;
  std::map<Ports, Socket*> current_;
  std::vector<std::unique_ptr<Socket>> sockets_;
};

}  // namespace fakes
