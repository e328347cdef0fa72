// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
#include "src/vmm/serial.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

namespace vmm {
namespace {

// A driver's view of the port.
class SerialPortTest : public testing::Test {
 protected:
  uint8_t In(uint64_t offset) {
    std::array<std::byte, 1> data{};
    port_.Read(offset, data);
    return static_cast<uint8_t>(data[0]);
  }
  void Out(uint64_t offset, uint8_t value) {
    const std::array data = {std::byte{value}};
    port_.Write(offset, data);
  }
  void Type(const std::string& keys) {
    port_.Receive(std::as_bytes(std::span(keys.data(), keys.size())));
  }

  bool interrupt_ = false;
  std::string sent_;
  int room_calls_ = 0;
  SerialPort port_{{.set_interrupt = [this](bool level) { interrupt_ = level; },
                    .send = [this](std::byte data) { sent_ += static_cast<char>(data); },
                    .on_room = [this] { ++room_calls_; }}};
};

constexpr uint8_t kNone = 0x01;
constexpr uint8_t kTransmitterEmpty = 0x02;
constexpr uint8_t kReceived = 0x04;

TEST_F(SerialPortTest, SendsWhatIsWrittenAndIsReadyAtOnce) {
  for (char c : std::string("hello")) Out(0, static_cast<uint8_t>(c));
  EXPECT_EQ(sent_, "hello");
  EXPECT_EQ(In(5) & 0x60, 0x60);
}

TEST_F(SerialPortTest, ReceivesInOrder) {
  Type("ab");
  EXPECT_EQ(In(5) & 1, 1);
  EXPECT_EQ(In(0), 'a');
  EXPECT_EQ(In(0), 'b');
  EXPECT_EQ(In(5) & 1, 0);
}

TEST_F(SerialPortTest, ReceivedDataInterruptsUntilItIsRead) {
  Out(1, 1);
  EXPECT_FALSE(interrupt_);
  Type("x");
  EXPECT_TRUE(interrupt_);
  EXPECT_EQ(In(2) & 0xF, kReceived);
  In(0);
  EXPECT_FALSE(interrupt_);
  EXPECT_EQ(In(2) & 0xF, kNone);
}

TEST_F(SerialPortTest, TransmitterEmptyInterruptsOncePerByteAndIsClearedByTheIdentity) {
  Out(1, 2);
  EXPECT_TRUE(interrupt_);  // it is empty when it is enabled
  EXPECT_EQ(In(2) & 0xF, kTransmitterEmpty);
  EXPECT_FALSE(interrupt_);
  Out(0, 'x');
  EXPECT_TRUE(interrupt_);
  EXPECT_EQ(In(2) & 0xF, kTransmitterEmpty);
  EXPECT_FALSE(interrupt_);
}

TEST_F(SerialPortTest, AFullFifoOverrunsAndTellsWhenThereIsRoomAgain) {
  Type(std::string(SerialPort::kFifoBytes, 'k'));
  EXPECT_EQ(port_.room(), 0U);
  Type("lost");
  EXPECT_EQ(In(5) & 2, 2);  // overrun, cleared by reading
  EXPECT_EQ(In(5) & 2, 0);
  EXPECT_EQ(room_calls_, 0);
  In(0);
  EXPECT_EQ(room_calls_, 1);
  EXPECT_EQ(port_.room(), 1U);
  In(0);
  EXPECT_EQ(room_calls_, 1);
}

TEST_F(SerialPortTest, LoopbackConnectsOutputsToInputs) {
  // The probe of Linux's 8250 driver.
  Out(4, 0x10 | 0x0A);
  EXPECT_EQ(In(6) & 0xF0, 0x90);
  Out(0, 'z');
  EXPECT_EQ(sent_, "");
  EXPECT_EQ(In(0), 'z');
}

TEST_F(SerialPortTest, TheDivisorHidesDataAndInterruptEnable) {
  Out(3, 0x80);
  Out(0, 1);
  Out(1, 0);
  EXPECT_EQ(sent_, "");
  EXPECT_EQ(In(0), 1);
  Out(3, 0x03);
  Type("a");
  EXPECT_EQ(In(0), 'a');
}

TEST_F(SerialPortTest, ResetForgetsEverything) {
  Out(1, 3);
  Type("abc");
  Out(7, 0x55);
  port_.Reset();
  EXPECT_FALSE(interrupt_);
  EXPECT_EQ(In(5) & 1, 0);
  EXPECT_EQ(In(7), 0);
  EXPECT_EQ(In(1), 0);
}

}  // namespace
}  // namespace vmm
