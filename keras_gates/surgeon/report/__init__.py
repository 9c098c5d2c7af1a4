"""Rows, reasons and notes of a plan."""
