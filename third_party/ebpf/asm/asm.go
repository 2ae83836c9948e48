// Package asm takes the place of the package of this name of
// github.com/cilium/ebpf, with which opencontainers/cgroups writes the program
// that decides on a container's devices (cgroup v2). The original brings
// debug/elf with a decompressor.
//
// Lost: instructions that this program does not have.
package asm

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// InstructionSize is that of one instruction, in bytes.
const InstructionSize = 8

// Register is one of the machine.
type Register uint8

// The registers: R0 is the result, R1 the context.
const (
	R0 Register = iota
	R1
	R2
	R3
	R4
	R5
)

// Size is that of a load.
type Size uint8

// Word is four bytes.
const Word Size = 0x00

const (
	classLdX   = 0x01
	classALU   = 0x04
	classJump  = 0x05
	classALU64 = 0x07
	modeMem    = 0x60
	sourceReg  = 0x08
	opExit     = 0x90
)

// ALUOp is arithmetic on registers.
type ALUOp uint8

// Arithmetic.
const (
	And ALUOp = 0x50
	RSh ALUOp = 0x70
	Mov ALUOp = 0xb0
)

// Imm32 works on the lower half with a number.
func (op ALUOp) Imm32(dst Register, value int32) Instruction {
	return Instruction{op: uint8(op) | classALU, dst: dst, imm: value}
}

// Imm works on the whole register with a number.
func (op ALUOp) Imm(dst Register, value int32) Instruction {
	return Instruction{op: uint8(op) | classALU64, dst: dst, imm: value}
}

// Reg32 works on the lower half with another register.
func (op ALUOp) Reg32(dst, src Register) Instruction {
	return Instruction{op: uint8(op) | classALU | sourceReg, dst: dst, src: src}
}

// JumpOp is a conditional jump.
type JumpOp uint8

// JNE jumps where both are different.
const JNE JumpOp = 0x50

// Imm compares with a number.
func (op JumpOp) Imm(dst Register, value int32, label string) Instruction {
	return Instruction{op: uint8(op) | classJump, dst: dst, imm: value, to: label}
}

// Reg compares with another register.
func (op JumpOp) Reg(dst, src Register, label string) Instruction {
	return Instruction{op: uint8(op) | classJump | sourceReg, dst: dst, src: src, to: label}
}

// LoadMem loads from an offset to the address in src.
func LoadMem(dst, src Register, offset int16, size Size) Instruction {
	return Instruction{op: classLdX | modeMem | uint8(size), dst: dst, src: src, off: offset}
}

// Return ends the program.
func Return() Instruction { return Instruction{op: opExit | classJump} }

// Instruction is one of a program.
type Instruction struct {
	op       uint8
	dst, src Register
	off      int16
	imm      int32
	label    string // its own
	to       string // of the instruction to jump to
}

// WithSymbol labels an instruction.
func (i Instruction) WithSymbol(name string) Instruction {
	i.label = name
	return i
}

// Instructions are a program.
type Instructions []Instruction

// Size is the program's, in bytes.
func (p Instructions) Size() uint64 { return uint64(len(p)) * InstructionSize }

// Marshal writes the program as the kernel takes it.
func (p Instructions) Marshal(w io.Writer, order binary.ByteOrder) error {
	at := map[string]int{}
	for n, i := range p {
		if i.label == "" {
			continue
		}
		if _, twice := at[i.label]; twice {
			return fmt.Errorf("the label %q is there twice", i.label)
		}
		at[i.label] = n
	}
	out := make([]byte, 0, p.Size())
	for n, i := range p {
		if i.to != "" {
			to, ok := at[i.to]
			jump := to - n - 1
			if !ok || jump < math.MinInt16 || jump > math.MaxInt16 {
				return fmt.Errorf("instruction %d cannot jump to %q", n, i.to)
			}
			i.off = int16(jump)
		}
		regs := uint8(i.src)<<4 | uint8(i.dst)
		if order.Uint16([]byte{0, 1}) == 1 { // big endian turns the halves too
			regs = uint8(i.dst)<<4 | uint8(i.src)
		}
		var b [InstructionSize]byte
		b[0], b[1] = i.op, regs
		order.PutUint16(b[2:], uint16(i.off))
		order.PutUint32(b[4:], uint32(i.imm))
		out = append(out, b[:]...)
	}
	_, err := w.Write(out)
	return err
}
